/* Restores one picture with a plan file: binary PGM or PPM (P5, P6; 8 or 16 bits), or a raw frame.
 *
 *   restore PLAN INPUT OUTPUT [--sigma S] [--strength X] [--threads N] [--memory MIB] [--runs N]
 *           [--raw WIDTHxHEIGHTxCHANNELS:u8|u16|f16|f32]
 */
#define _POSIX_C_SOURCE 200809L
#include <fastrestore.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WARM_UP_RUNS = 3 };

struct frame {
  int64_t width, height;
  int32_t channels, type;
  int pnm;
  size_t bytes;
  unsigned char* pixels;
};

static const size_t SAMPLE_BYTES[] = {1, 2, 2, 4}; /* by fr_pixel */

static int fail(const char* what, const char* why) {
  fprintf(stderr, "restore: %s: %s\n", what, why);
  return 0;
}

static int checked(fr_status status, const char* what) {
  if (status == FR_OK) return 1;
  fprintf(stderr, "restore: %s: %s: %s\n", what, fr_status_name(status), fr_last_error());
  return 0;
}

/* The next number of a PNM header; 0 at its end or for anything else. */
static int64_t pnm_number(FILE* file) {
  int64_t number = 0;
  int c = getc(file);
  while (c == '#' || c == ' ' || c == '\t' || c == '\n' || c == '\r') {
    if (c == '#')
      while (c != '\n' && c != EOF) c = getc(file);
    else
      c = getc(file);
  }
  for (; c >= '0' && c <= '9' && number < 1000000; c = getc(file)) number = 10 * number + (c - '0');
  return c == ' ' || c == '\t' || c == '\n' || c == '\r' ? number : 0;
}

static int read_pnm_header(FILE* file, struct frame* frame) {
  const int p = getc(file), kind = getc(file);
  frame->pnm = 1;
  frame->channels = kind == '6' ? 3 : 1;
  frame->width = pnm_number(file);
  frame->height = pnm_number(file);
  const int64_t most = pnm_number(file);
  frame->type = most == 255 ? FR_U8 : FR_U16;
  return p == 'P' && (kind == '5' || kind == '6') && frame->width > 0 && frame->height > 0 &&
         (most == 255 || most == 65535);
}

static int read_raw_header(const char* text, struct frame* frame) {
  static const char* const types[] = {"u8", "u16", "f16", "f32"};
  char type[4] = "";
  if (sscanf(text, "%" SCNd64 "x%" SCNd64 "x%" SCNd32 ":%3s", &frame->width, &frame->height, &frame->channels, type) !=
      4)
    return 0;
  for (frame->type = 0; frame->type < 4; ++frame->type)
    if (strcmp(type, types[frame->type]) == 0) break;
  return frame->type < 4 && frame->width > 0 && frame->width < 1000000 && frame->height > 0 &&
         frame->height < 1000000 && frame->channels > 0 && frame->channels <= 4;
}

/* 16-bit PNM samples have their high byte first. */
static void swap_if_needed(const struct frame* frame, unsigned char* pixels) {
  const uint16_t one = 1;
  if (!frame->pnm || frame->type != FR_U16 || *(const unsigned char*)&one == 0) return;
  for (size_t i = 0; i + 1 < frame->bytes; i += 2) {
    const unsigned char first = pixels[i];
    pixels[i] = pixels[i + 1];
    pixels[i + 1] = first;
  }
}

static int read_frame(const char* path, const char* raw, struct frame* frame) {
  FILE* file = fopen(path, "rb");
  if (file == NULL) return fail(path, "cannot be opened");
  if (!(raw != NULL ? read_raw_header(raw, frame) : read_pnm_header(file, frame))) {
    fclose(file);
    return raw != NULL ? fail(raw, "wanted WIDTHxHEIGHTxCHANNELS:TYPE")
                       : fail(path, "wanted a P5 or P6 of 8 or 16 bits");
  }
  frame->bytes = (size_t)frame->width * (size_t)frame->height * (size_t)frame->channels * SAMPLE_BYTES[frame->type];
  frame->pixels = malloc(frame->bytes);
  const int complete = frame->pixels != NULL && fread(frame->pixels, 1, frame->bytes, file) == frame->bytes;
  fclose(file);
  if (!complete) return fail(path, "is cut short, or too large for memory");
  swap_if_needed(frame, frame->pixels);
  return 1;
}

static int write_frame(const char* path, const struct frame* frame, unsigned char* pixels) {
  FILE* file = fopen(path, "wb");
  if (file == NULL) return fail(path, "cannot be written");
  if (frame->pnm)
    fprintf(file, "P%d\n%" PRId64 " %" PRId64 "\n%d\n", frame->channels == 3 ? 6 : 5, frame->width, frame->height,
            frame->type == FR_U8 ? 255 : 65535);
  swap_if_needed(frame, pixels);
  const int complete = fwrite(pixels, 1, frame->bytes, file) == frame->bytes;
  return (fclose(file) == 0 && complete) || fail(path, "cannot be written completely");
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int ascending(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

/* Runs once, or after a warm-up `runs` times with the latencies that were met. */
static int run(fr_session* session, const fr_image* image, const fr_run_options* options, int runs) {
  fr_report report = FR_REPORT_INIT;
  if (!checked(fr_session_run(session, image, options, &report), "run")) return 0;
  if (report.non_finite > 0) fprintf(stderr, "restore: %" PRId64 " values were not finite\n", report.non_finite);
  if (runs == 0) return 1;
  double* seconds = malloc((size_t)runs * sizeof *seconds);
  if (seconds == NULL) return fail("runs", "too many");
  for (int i = -WARM_UP_RUNS; i < runs; ++i) {
    const double start = now();
    if (!checked(fr_session_run(session, image, options, NULL), "run")) {
      free(seconds);
      return 0;
    }
    if (i >= 0) seconds[i] = now() - start;
  }
  qsort(seconds, (size_t)runs, sizeof *seconds, ascending);
  printf("%d runs: p50 %.3f ms, p99 %.3f ms, worst %.3f ms; %" PRId64 " strips, %.1f MiB of working memory\n", runs,
         1e3 * seconds[(runs - 1) / 2], 1e3 * seconds[(runs * 99 + 99) / 100 - 1], 1e3 * seconds[runs - 1],
         report.strips, (double)report.working_bytes / 1048576);
  free(seconds);
  return 1;
}

int main(int argc, char** argv) {
  const char* raw = NULL;
  int runs = 0;
  fr_session_options session_options = FR_SESSION_OPTIONS_INIT;
  fr_run_options run_options = FR_RUN_OPTIONS_INIT;
  int usable = argc >= 4 && argc % 2 == 0;
  for (int i = 4; usable && i < argc; i += 2) {
    const char* value = argv[i + 1];
    if (strcmp(argv[i], "--sigma") == 0)
      run_options.sigma = (float)atof(value);
    else if (strcmp(argv[i], "--strength") == 0)
      run_options.strength = (float)atof(value);
    else if (strcmp(argv[i], "--threads") == 0)
      session_options.threads = (int32_t)atoi(value);
    else if (strcmp(argv[i], "--memory") == 0)
      session_options.memory = (int64_t)(atof(value) * 1048576);
    else if (strcmp(argv[i], "--runs") == 0)
      runs = atoi(value);
    else if (strcmp(argv[i], "--raw") == 0)
      raw = value;
    else
      usable = 0;
  }
  if (!usable || runs < 0) {
    fprintf(stderr,
            "usage: restore PLAN INPUT OUTPUT [--sigma S] [--strength X] [--threads N] [--memory MIB] [--runs N]\n"
            "               [--raw WIDTHxHEIGHTxCHANNELS:u8|u16|f16|f32]\n");
    return 2;
  }

  fr_plan* plan = NULL;
  fr_session* session = NULL;
  struct frame frame = {0};
  unsigned char* restored = NULL;
  int done = 0;
  if (checked(fr_plan_load(argv[1], &plan), argv[1]) && read_frame(argv[2], raw, &frame) &&
      checked(fr_session_create(plan, &session_options, &session), "session")) {
    restored = malloc(frame.bytes);
    fr_image image = FR_IMAGE_INIT;
    image.in = frame.pixels;
    image.out = restored;
    image.height = frame.height;
    image.width = frame.width;
    image.channels = frame.channels;
    image.type = frame.type;
    done = run(session, &image, &run_options, runs) && write_frame(argv[3], &frame, restored);
  }
  free(restored);
  free(frame.pixels);
  fr_session_free(session);
  fr_plan_free(plan);
  return done ? 0 : 1;
}
