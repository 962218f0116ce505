/* The interface of the C kernels: one geometry, one call, one table of algorithms per ISA. Knows nothing of Python.
 *
 * Glossary (the same letters in Python's Geometry):
 *   N images   C input channels   H W input rows, columns   K output channels   R S kernel rows, columns
 *   P Q output rows, columns      x (N, C, H, W)   w (K, C/groups, R, S)   y (N, K, P, Q), all C-contiguous
 *
 * The map that all three operations share:
 *   y[n,k,p,q] = sum over c,r,s of w[k,c,r,s] * x[n, c, h, v]
 *   h = p*stride_h + r*dilation_h - pad_h,  v = q*stride_w + s*dilation_w - pad_w
 * with x zero outside its plane. P and Q are given and may be smaller or larger than a naive formula says: code reads
 * them, never derives them, and treats every x position outside [0,H) x [0,W) as a zero that is multiplied like any
 * other (forward, backward_weight: an inf or NaN weight on padding gives NaN, as in torch; a small kernel may not skip
 * it) or as not there (backward_input). A 1-D convolution has H = R = P = 1.
 */
#ifndef FASTCONV_H
#define FASTCONV_H

#include <stddef.h>
#include <stdint.h>

typedef enum { FC_FORWARD = 0, FC_BACKWARD_INPUT = 1, FC_BACKWARD_WEIGHT = 2 } fc_operation;
typedef enum { FC_FLOAT32 = 0, FC_FLOAT64 = 1 } fc_dtype;

typedef struct {
    ptrdiff_t N, C, H, W, K, R, S, P, Q; /* each at least 1: empty convolutions never reach C */
    ptrdiff_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups;
} fc_geometry;

/* forward reads x, w, bias and writes y; backward_input reads y, w and writes x; backward_weight reads x, y and writes
 * w. What is written is overwritten (=), never added to (+=). All pointers are aligned to the element, no more. */
typedef struct {
    fc_geometry geometry;
    void *x, *w, *y;
    const void *bias;       /* forward only: NULL, or K values, or K*P*Q with bias_stride_position = 1 */
    int bias_per_position;  /* 0: bias[k]; 1: bias[k][p][q] */
    int threads;            /* at most so many run; the result is the same bits for the same number */
    int keep_denormals;     /* 0: flush denormals to zero while the call runs, in every thread; 1: keep them */
    void *workspace;        /* as many bytes as workspace() said, aligned to 64 */
} fc_call;

/* One way to carry out one operation on one dtype. Rows of the table are in order of preference: the first one that
 * neither `unsupported` nor `unwise` refuses is taken. */
typedef struct {
    const char *name;      /* "direct", "winograd", ...: several rows may share a name across operations and dtypes */
    fc_operation operation;
    fc_dtype dtype;
    int exact;             /* direct summation, so allowed under precision("strict") */
    const char *(*unsupported)(const fc_geometry *);          /* NULL: can do it; else why not, a static string */
    const char *(*unwise)(const fc_geometry *, int threads);  /* NULL: worth it; else why not, a static string */
    size_t (*workspace)(const fc_geometry *, int threads);    /* bytes beyond x, w, y and a few KB of stack; an upper
                                                                 bound that run() keeps to, as it allocates nothing */
    void (*run)(const fc_call *);
} fc_algorithm;

typedef struct {
    const char *isa;                 /* "avx512", "avx2", "neon", "baseline" */
    int vector_bytes;
    const fc_algorithm *algorithms;
    int count;
} fc_kernels;

/* ---- dispatch.c */
int fc_isa_count(void);                       /* rows of isas.def that this build holds, best first */
const char *fc_isa_name(int row);
int fc_isa_usable(int row);                   /* 1 where this CPU (and OS) can run it */
const fc_kernels *fc_find(const char *isa);   /* NULL: the best usable; else that one, or NULL if it can't be had */

/* ---- cache.c */
size_t fc_level2_bytes(void); /* what the level-2 cache of a core holds; the same at every call */

/* ---- pool.c: threads that sleep when there is nothing to do */
/* Calls tile(context, i, worker) once for every i in [0, tiles), on at most `threads` threads, the caller's included,
 * and returns when all are done. worker is in [0, threads) and no two tiles that run at the same time share it. Which
 * thread takes which tile varies; results must not depend on it. Re-entrant: where the pool is busy with another
 * caller's work, the caller does all of it alone. Works after fork. Denormals are flushed (or kept) in every thread for
 * the call and each thread's floating-point mode is restored after. */
void fc_parallel(int threads, ptrdiff_t tiles, int keep_denormals,
                 void (*tile)(void *context, ptrdiff_t i, int worker), void *context);

/* A function that runs body(data) on `threads` threads, the caller's included, and returns when all are done: OpenMP's
 * GOMP_parallel, of the library that another part of this process computes with. */
typedef void (*fc_team)(void (*body)(void *), void *data, unsigned threads, unsigned flags);
typedef int (*fc_member)(void); /* of such a body: the number of its thread, the caller's 0: omp_get_thread_num */
/* Process-wide, for calls that begin later; NULL: the pool's own threads. Over after fork. */
void fc_use_team(fc_team team, fc_member member);

#endif
