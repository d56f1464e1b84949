#include "base/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <stdexcept>

namespace fr::json {
namespace {

// Bytes of the UTF-8 character at the text's beginning; 0 if there is none.
size_t utf8_length(std::string_view text) {
  const auto at = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const unsigned first = at(0);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4) return 0;
  // Overlong forms, surrogates and what lies above U+10FFFF show in the second byte.
  const unsigned low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  const unsigned high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  if (at(1) < low || at(1) > high) return 0;
  for (size_t i = 2; i < length; ++i)
    if (at(i) < 0x80 || at(i) > 0xbf) return 0;
  return length;
}

void append_utf8(uint32_t code, std::string& out) {
  const auto tail = [&](int shift) { out.push_back(static_cast<char>(0x80 | ((code >> shift) & 0x3f))); };
  if (code < 0x80) {
    out.push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    out.push_back(static_cast<char>(0xc0 | code >> 6));
    tail(0);
  } else if (code < 0x10000) {
    out.push_back(static_cast<char>(0xe0 | code >> 12));
    tail(6);
    tail(0);
  } else {
    out.push_back(static_cast<char>(0xf0 | code >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Value document() {
    Value result = value(0);
    skip_space();
    if (at_ < text_.size()) fail("something follows the value");
    return result;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw std::invalid_argument("not valid JSON at byte " + std::to_string(at_) + ": " + what);
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r'))
      ++at_;
  }

  void expect(char c) {
    skip_space();
    if (peek() != c) fail(std::string("wanted '") + c + "'");
    ++at_;
  }

  bool take(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Value value(int depth) {
    if (depth > kMaxDepth) fail("nested more than " + std::to_string(kMaxDepth) + " deep");
    if (++values_ > kMaxValues) fail("more than " + std::to_string(kMaxValues) + " values");
    skip_space();
    const char c = peek();
    if (c == '{') return object(depth);
    if (c == '[') return array(depth);
    if (c == '"') return string();
    if (c == '-' || is_digit(c)) return number();
    if (take("null")) return {};
    if (take("true")) return true;
    if (take("false")) return false;
    fail("wanted a value");
  }

  Value object(int depth) {
    Object members;
    ++at_;
    skip_space();
    if (peek() == '}') {
      ++at_;
      return members;
    }
    for (;;) {
      skip_space();
      if (peek() != '"') fail("wanted a key");
      std::string key = string();
      expect(':');
      members.push_back({std::move(key), value(depth + 1)});
      skip_space();
      if (peek() != ',') break;
      ++at_;
    }
    expect('}');
    std::vector<std::string_view> keys;
    for (const Member& member : members) keys.push_back(member.key);
    std::sort(keys.begin(), keys.end());
    if (std::adjacent_find(keys.begin(), keys.end()) != keys.end()) fail("a key stands twice in the object before");
    return members;
  }

  Value array(int depth) {
    Array items;
    ++at_;
    skip_space();
    if (peek() == ']') {
      ++at_;
      return items;
    }
    for (;;) {
      items.push_back(value(depth + 1));
      skip_space();
      if (peek() != ',') break;
      ++at_;
    }
    expect(']');
    return items;
  }

  std::string string() {
    std::string out;
    ++at_;
    for (;;) {
      if (at_ >= text_.size()) fail("a string does not end");
      const char c = text_[at_];
      if (c == '"') break;
      if (static_cast<unsigned char>(c) < 0x20) fail("a control character in a string");
      if (c == '\\') {
        escape(out);
        continue;
      }
      const size_t length = utf8_length(text_.substr(at_));
      if (length == 0) fail("not UTF-8");
      out.append(text_.substr(at_, length));
      at_ += length;
    }
    ++at_;
    return out;
  }

  void escape(std::string& out) {
    ++at_;
    const char c = peek();
    static constexpr std::string_view kFrom = "\"\\/bfnrt", kTo = "\"\\/\b\f\n\r\t";
    const size_t simple = c == '\0' ? std::string_view::npos : kFrom.find(c);
    if (simple != std::string_view::npos) {
      out.push_back(kTo[simple]);
      ++at_;
      return;
    }
    if (c != 'u') fail("an unknown escape");
    uint32_t code = hex();
    if (code >= 0xd800 && code < 0xdc00) {
      const uint32_t low = peek() == '\\' && text_.substr(at_ + 1, 1) == "u" ? (++at_, hex()) : 0;
      if (low < 0xdc00 || low > 0xdfff) fail("half of a surrogate pair");
      code = 0x10000 + ((code - 0xd800) << 10 | (low - 0xdc00));
    } else if (code >= 0xdc00 && code < 0xe000) {
      fail("half of a surrogate pair");
    }
    append_utf8(code, out);
  }

  uint32_t hex() {  // the four digits after the u at the current place
    ++at_;
    uint32_t code = 0;
    const std::string_view digits = text_.substr(std::min(at_, text_.size()), 4);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
    if (error != std::errc() || end != digits.data() + 4) fail("\\u needs four hexadecimal digits");
    at_ += 4;
    return code;
  }

  Value number() {
    const size_t begin = at_;
    bool whole = true;
    const auto digits = [&] {
      if (!is_digit(peek())) fail("wanted a digit");
      while (is_digit(peek())) ++at_;
    };
    if (peek() == '-') ++at_;
    if (peek() == '0')
      ++at_;
    else
      digits();
    if (peek() == '.') {
      whole = false;
      ++at_;
      digits();
    }
    if (peek() == 'e' || peek() == 'E') {
      whole = false;
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      digits();
    }
    const char *first = text_.data() + begin, *last = text_.data() + at_;
    if (whole) {
      int64_t integer = 0;
      if (std::from_chars(first, last, integer).ec != std::errc()) fail("an integer beyond 64 bits");
      return integer;
    }
    double real = 0;
    // from_chars, unlike strtod, does not depend on the locale. Too large and too small are both out of range.
    if (std::from_chars(first, last, real).ec != std::errc() || !std::isfinite(real)) fail("a number out of range");
    return real;
  }

  std::string_view text_;
  size_t at_ = 0;
  int64_t values_ = 0;
};

void write_string(std::string_view text, std::string& out) {
  static constexpr char kHex[] = "0123456789abcdef";
  out.push_back('"');
  for (size_t i = 0; i < text.size();) {
    const unsigned char c = static_cast<unsigned char>(text[i]);
    const size_t length = utf8_length(text.substr(i));
    if (length == 0) throw std::invalid_argument("JSON: text that is not UTF-8");
    if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(static_cast<char>(c));
    } else if (c < 0x20) {
      out += "\\u00";
      out.push_back(kHex[c >> 4]);
      out.push_back(kHex[c & 15]);
    } else {
      out.append(text.substr(i, length));
    }
    i += length;
  }
  out.push_back('"');
}

void write_to(const Value& value, std::string& out) {
  char buffer[40];
  if (const bool* flag = value.get<bool>()) {
    out += *flag ? "true" : "false";
  } else if (const int64_t* integer = value.get<int64_t>()) {
    out.append(buffer, std::to_chars(buffer, buffer + sizeof buffer, *integer).ptr);
  } else if (const double* real = value.get<double>()) {
    if (!std::isfinite(*real)) throw std::invalid_argument("JSON: a number that is not finite");
    const std::string_view text(buffer,
                                static_cast<size_t>(std::to_chars(buffer, buffer + sizeof buffer, *real).ptr - buffer));
    out += text;
    if (text.find_first_of(".e") == std::string_view::npos) out += ".0";  // so that it stays a double
  } else if (const std::string* text = value.get<std::string>()) {
    write_string(*text, out);
  } else if (const Array* items = value.get<Array>()) {
    out.push_back('[');
    for (size_t i = 0; i < items->size(); ++i) {
      if (i > 0) out.push_back(',');
      write_to((*items)[i], out);
    }
    out.push_back(']');
  } else if (const Object* members = value.get<Object>()) {
    out.push_back('{');
    for (size_t i = 0; i < members->size(); ++i) {
      if (i > 0) out.push_back(',');
      write_string((*members)[i].key, out);
      out.push_back(':');
      write_to((*members)[i].value, out);
    }
    out.push_back('}');
  } else {
    out += "null";
  }
}

}  // namespace

Value::Value(Array value) : data(std::move(value)) {}
Value::Value(Object value) : data(std::move(value)) {}

const Value* Value::find(std::string_view key) const {
  if (const Object* members = get<Object>())
    for (const Member& member : *members)
      if (member.key == key) return &member.value;
  return nullptr;
}

Value parse(std::string_view text) { return Parser(text).document(); }

std::string write(const Value& value) {
  std::string out;
  write_to(value, out);
  return out;
}

}  // namespace fr::json
