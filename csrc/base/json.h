// JSON (RFC 8259), for text that comes from outside: strict, valid UTF-8 only, no key twice in an object, with
// limits on depth and on the number of values, so that a short text cannot take much memory or stack.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace fr::json {

struct Value;
struct Member;
using Array = std::vector<Value>;
using Object = std::vector<Member>;  // in the text's order

// A number without fraction and exponent is an int64_t, any other a finite double.
struct Value {
  std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object> data;  // monostate: null

  Value() = default;
  Value(bool value) : data(value) {}
  Value(int value) : data(static_cast<int64_t>(value)) {}
  Value(int64_t value) : data(value) {}
  Value(double value) : data(value) {}
  Value(const char* value) : data(std::string(value)) {}
  Value(std::string value) : data(std::move(value)) {}
  Value(Array value);
  Value(Object value);

  template <class T>
  const T* get() const {  // null if the value is of another type
    return std::get_if<T>(&data);
  }
  bool is_null() const { return std::holds_alternative<std::monostate>(data); }
  const Value* find(std::string_view key) const;  // null if this is no object or has no such key
};

struct Member {
  std::string key;
  Value value;
};

constexpr int kMaxDepth = 64;
constexpr int64_t kMaxValues = 1 << 20;

// Throws std::invalid_argument that says at which byte the text is not JSON, or above which limit it is.
Value parse(std::string_view text);

// Without spaces; what parse() read is written so that it reads the same. Throws std::invalid_argument for a number
// that is not finite and for text that is not UTF-8.
std::string write(const Value& value);

}  // namespace fr::json
