/* fastrestore in C: load a plan file, open a session, restore pictures in the caller's buffers. See docs/embed.md.
 *
 * Every function returns a status and throws nothing; fr_last_error() has the sentence that belongs to it. Handles
 * are checked: one that was freed, or never was one, gives FR_INVALID_HANDLE. All functions may be called from any
 * thread; a session does one run at a time. */
#ifndef FASTRESTORE_H
#define FASTRESTORE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __GNUC__
#define FR_API __attribute__((visibility("default")))
#else
#define FR_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fr_status {
  FR_OK = 0,
  FR_INVALID_ARGUMENT = 1, /* NULL, a wrong struct_size, sizes, strides or options that do not fit */
  FR_INVALID_HANDLE = 2,   /* not a live plan or session */
  FR_BAD_FILE = 3,         /* not a plan file, damaged, or of a newer version */
  FR_SYSTEM_ERROR = 4,     /* the file cannot be read, a thread cannot be started */
  FR_OUT_OF_MEMORY = 5,
  FR_OVER_BUDGET = 6, /* the session's memory is too small for this picture; the message says what would do */
  FR_CANCELLED = 7,   /* the progress function said so */
  FR_BUSY = 8,        /* the session is running in another thread, or this is its own progress function */
  FR_UNSUPPORTED = 9, /* the device is not part of this build or machine */
  FR_INTERNAL = 10
} fr_status;

FR_API const char* fr_version(void);               /* of the library, like "0.1.0" */
FR_API const char* fr_status_name(fr_status code); /* like "FR_BAD_FILE"; never NULL */

/* What went wrong in the calling thread's last fr_ function that returns a status: one sentence in UTF-8, empty after
 * FR_OK. Valid until that thread's next one. */
FR_API const char* fr_last_error(void);

/* The first member of each struct is its size, sizeof(the struct), so that later versions can tell an older caller. */

/* Plans: immutable, shared by threads and sessions */

typedef struct fr_plan fr_plan;

/* A plan file, as `fastrestore compile MODEL -o FILE.frp` or Plan.save in Python writes it. A file is only ever
 * refused, whatever it holds. On success *plan must be given to fr_plan_free. */
FR_API fr_status fr_plan_load(const char* path, fr_plan** plan);

/* The same from the file's bytes, which may be freed afterwards. They may lie at any address. */
FR_API fr_status fr_plan_load_memory(const void* data, size_t size, fr_plan** plan);

/* Frees the handle; sessions keep what they need. NULL is fine. */
FR_API fr_status fr_plan_free(fr_plan* plan);

typedef struct fr_plan_info {
  size_t struct_size;
  int64_t channels;      /* of the model; pictures have as many, or 1 */
  int32_t takes_sigma;   /* 1: every run is given a noise level; 0: none is */
  int32_t reserved;      /* 0 */
  int64_t halo;          /* how many pixels an output pixel looks, each way; -1: at the whole picture */
  int64_t multiple_of;   /* pictures are padded to it, inside; any size may be given */
  int64_t packed_bytes;  /* memory of the packed weights */
  const char* isa;       /* of its kernels: baseline, avx2, avx512, avx512_bf16 */
  const char* precision; /* float32, bfloat16, int8 */
  const char* card;      /* JSON object: name, task, licence and so on, as far as known */
} fr_plan_info;          /* the strings live as long as the plan's handle */

#define FR_PLAN_INFO_INIT {sizeof(fr_plan_info), 0, 0, 0, 0, 0, 0, NULL, NULL, NULL}

FR_API fr_status fr_plan_query(const fr_plan* plan, fr_plan_info* info);

/* Sessions: the working memory and threads of one stream of pictures */

typedef struct fr_session fr_session;

typedef struct fr_session_options {
  size_t struct_size;
  const char* device; /* NULL, "auto" or "cpu"; "cuda": the current GPU, whose memory is meant then. It computes a
                         float32 plan in float16, others in bfloat16 */
  int32_t threads;    /* 0: as many as CPUs this process may run on; at most 1024 */
  int32_t reserved;   /* 0 */
  int64_t memory; /* bytes a run may take beyond pictures and packed weights; 0: 1 GiB. Results do not depend on it */
} fr_session_options;

#define FR_SESSION_OPTIONS_INIT {sizeof(fr_session_options), NULL, 0, 0, 0}

/* options: NULL takes the defaults. On success *session must be given to fr_session_free. */
FR_API fr_status fr_session_create(const fr_plan* plan, const fr_session_options* options, fr_session** session);

/* Frees the handle; a run in another thread is finished first, by that thread. NULL is fine. */
FR_API fr_status fr_session_free(fr_session* session);

/* A model with states remembers the pictures before; this begins anew, as a picture of another size does. */
FR_API fr_status fr_session_reset(fr_session* session);

/* The bytes that a run on height x width pixels will hold; FR_OVER_BUDGET if that is more than the session may. */
FR_API fr_status fr_session_working_bytes(const fr_session* session, int64_t height, int64_t width, int64_t* bytes);

/* Runs */

typedef enum fr_pixel {
  FR_U8 = 0,
  FR_U16 = 1, /* of this machine's byte order */
  FR_F16 = 2, /* IEEE half; floats are nominally from 0 to 1 and never clipped on the way in */
  FR_F32 = 3
} fr_pixel;

/* A picture [height][width][channels], the pixels of a row contiguous. The two buffers must not overlap and must be
 * aligned to the sample's size, rows included. For a session on a GPU each may lie in its memory. */
typedef struct fr_image {
  size_t struct_size;
  const void* in;
  void* out;             /* of the same shape and type */
  int64_t in_row_bytes;  /* from row to row; 0: rows without a gap */
  int64_t out_row_bytes; /* likewise */
  int64_t height, width; /* pixels, each at least 1 */
  int32_t channels;      /* the plan's, or 1: a grey picture in a colour model */
  int32_t type;          /* an fr_pixel */
} fr_image;

#define FR_IMAGE_INIT {sizeof(fr_image), NULL, NULL, 0, 0, 0, 0, 0, FR_U8}

/* Called after each band of rows with the share done, from 0 to 1, in the thread that runs; must return (no longjmp,
 * no exception): 0 to go on, anything else to cancel. */
typedef int (*fr_progress)(double done, void* user);

typedef struct fr_run_options {
  size_t struct_size;
  float sigma;      /* noise level in units of 0 to 255, whatever the pixel type; negative: none. As takes_sigma says */
  float strength;   /* 0 gives the input, 1 the restored picture, linear in between */
  int32_t clip;     /* not 0: floats are clipped to [0, 1] on the way out */
  int32_t reserved; /* 0 */
  fr_progress progress; /* may be NULL */
  void* user;           /* handed to progress */
  void* stream; /* on a GPU: a cudaStream_t, NULL the default one. The picture is read after its work so far; the result
                   is there when fr_session_run returns */
} fr_run_options;

#define FR_RUN_OPTIONS_INIT {sizeof(fr_run_options), -1.0f, 1.0f, 1, 0, NULL, NULL, NULL}

typedef struct fr_report {
  size_t struct_size;
  int64_t non_finite;    /* result values that were NaN or infinite; as integers they are 0 or the limits */
  int64_t strips;        /* columns the picture was cut into to stay within memory */
  int64_t band;          /* rows done at a time */
  int64_t working_bytes; /* held by the session */
  int64_t recomputed;    /* on a GPU: strips computed again in float32, because 16 bits did not hold them */
  double seconds;        /* of the run */
} fr_report;

#define FR_REPORT_INIT {sizeof(fr_report), 0, 0, 0, 0, 0, 0.0}

/* Restores one picture. options: NULL for the defaults; report: NULL if not wanted, else filled on FR_OK. The same
 * plan, picture and options give the same bits for every memory and number of threads. Once a size has been run, the
 * next run of that size allocates no working memory. After an error the content of out is undefined. */
FR_API fr_status fr_session_run(fr_session* session, const fr_image* image, const fr_run_options* options,
                                fr_report* report);

#ifdef __cplusplus
}
#endif
#endif
