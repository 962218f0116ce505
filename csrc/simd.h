/* A small vector vocabulary over GCC/Clang vector extensions: width from the ISA, element type from FC_BITS.
 *
 * Included once per element type by kernels.inc; the families are written over `real` (the element), `vec` (as many of
 * them as a register holds), `LANES` and the functions below. FC(name) gives every function its element's suffix, so that
 * both copies live in one object. Everything is static: objects compiled with different flags share no function.
 *
 * load, store, splat            whole vectors, aligned to the element only
 * load_lanes, store_lanes       only lanes lo <= l < hi are touched in memory; the others read as zero
 * unzip, zip                    two vectors to their even and odd elements, and back
 * lane_mask, load_masked        a mask kept in memory, one per vector of pixels; masked lanes read as zero */
#ifndef FC_SIMD_H
#define FC_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define FC_VECTOR_BYTES 64
#define FC_REGISTERS 32
#elif defined(__AVX2__)
#include <immintrin.h>
#define FC_VECTOR_BYTES 32
#define FC_REGISTERS 16
#elif defined(__aarch64__)
#define FC_VECTOR_BYTES 16
#define FC_REGISTERS 32
#else
#define FC_VECTOR_BYTES 16
#define FC_REGISTERS 16
#endif

#if defined(__clang__)
#define FC_UNROLL _Pragma("clang loop unroll(full)")
#else
#define FC_UNROLL _Pragma("GCC unroll 16")
#endif
#define FC_INLINE static inline __attribute__((always_inline, unused))
#define FC_PASTE_(a, b) a##_f##b
#define FC_PASTE(a, b) FC_PASTE_(a, b)
#define FC(name) FC_PASTE(name, FC_BITS)

#endif /* what follows is per element type */

#undef real
#undef vec
#undef vec_in_memory
#undef int_lane
#undef LANES
#if FC_BITS == 32
#define real float
#define int_lane int32_t
#else
#define real double
#define int_lane int64_t
#endif
#define vec FC(vec)
#define vec_in_memory FC(vec_in_memory)
#define LANES ((ptrdiff_t)(FC_VECTOR_BYTES / sizeof(real)))

typedef real vec __attribute__((vector_size(FC_VECTOR_BYTES)));
typedef real vec_in_memory __attribute__((vector_size(FC_VECTOR_BYTES), aligned(FC_BITS / 8), may_alias));
typedef int_lane FC(ints) __attribute__((vector_size(FC_VECTOR_BYTES)));

FC_INLINE vec FC(load)(const real *p) { return *(const vec_in_memory *)p; }
FC_INLINE void FC(store)(real *p, vec v) { *(vec_in_memory *)p = v; }
FC_INLINE vec FC(splat)(real a) { return a - (vec){0}; } /* a - 0 is a, for -0 too: compiles to a broadcast */

#if FC_VECTOR_BYTES == 64 && FC_BITS == 32
#define FC_IOTA 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
#define FC_EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define FC_ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define FC_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define FC_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif FC_VECTOR_BYTES * 8 == 8 * FC_BITS
#define FC_IOTA 0, 1, 2, 3, 4, 5, 6, 7
#define FC_EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define FC_ODD 1, 3, 5, 7, 9, 11, 13, 15
#define FC_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define FC_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#elif FC_VECTOR_BYTES * 8 == 4 * FC_BITS
#define FC_IOTA 0, 1, 2, 3
#define FC_EVEN 0, 2, 4, 6
#define FC_ODD 1, 3, 5, 7
#define FC_LOW 0, 4, 1, 5
#define FC_HIGH 2, 6, 3, 7
#else
#define FC_IOTA 0, 1
#define FC_EVEN 0, 2
#define FC_ODD 1, 3
#define FC_LOW 0, 2
#define FC_HIGH 1, 3
#endif

FC_INLINE vec FC(unzip_even)(vec a, vec b) { return __builtin_shufflevector(a, b, FC_EVEN); }
FC_INLINE vec FC(unzip_odd)(vec a, vec b) { return __builtin_shufflevector(a, b, FC_ODD); }
FC_INLINE vec FC(zip_low)(vec even, vec odd) { return __builtin_shufflevector(even, odd, FC_LOW); }
FC_INLINE vec FC(zip_high)(vec even, vec odd) { return __builtin_shufflevector(even, odd, FC_HIGH); }

/* All bits set in lanes lo <= l < hi. Here and below 0 <= lo, hi <= LANES. */
FC_INLINE FC(ints) FC(between)(ptrdiff_t lo, ptrdiff_t hi) {
    const FC(ints) lane = {FC_IOTA};
    return (lane >= (int_lane)lo) & (lane < (int_lane)hi);
}

#if defined(__AVX512F__)

#if FC_BITS == 32
#define FC_MASK __mmask16
#else
#define FC_MASK __mmask8
#endif
typedef FC_MASK FC(lane_mask);

FC_INLINE FC(lane_mask) FC(mask_between)(ptrdiff_t lo, ptrdiff_t hi) {
    return (FC(lane_mask))((((uint32_t)1 << hi) - 1) & ~(((uint32_t)1 << lo) - 1));
}
#if FC_BITS == 32
FC_INLINE vec FC(load_masked)(FC(lane_mask) m, const real *p) { return (vec)_mm512_maskz_loadu_ps(m, p); }
FC_INLINE void FC(store_masked)(FC(lane_mask) m, real *p, vec v) { _mm512_mask_storeu_ps(p, m, (__m512)v); }
#else
FC_INLINE vec FC(load_masked)(FC(lane_mask) m, const real *p) { return (vec)_mm512_maskz_loadu_pd(m, p); }
FC_INLINE void FC(store_masked)(FC(lane_mask) m, real *p, vec v) { _mm512_mask_storeu_pd(p, m, (__m512d)v); }
#endif
FC_INLINE vec FC(load_lanes)(const real *p, ptrdiff_t lo, ptrdiff_t hi) {
    return FC(load_masked)(FC(mask_between)(lo, hi), p);
}
FC_INLINE void FC(store_lanes)(real *p, vec v, ptrdiff_t lo, ptrdiff_t hi) {
    FC(store_masked)(FC(mask_between)(lo, hi), p, v);
}
#undef FC_MASK

#else

typedef FC(ints) FC(lane_mask);

FC_INLINE FC(lane_mask) FC(mask_between)(ptrdiff_t lo, ptrdiff_t hi) { return FC(between)(lo, hi); }

/* Here all of p[0..LANES) is readable: the mask only hides values. */
FC_INLINE vec FC(load_masked)(FC(lane_mask) m, const real *p) { return (vec)((FC(ints))FC(load)(p) & m); }

#if defined(__AVX2__) && FC_BITS == 32
FC_INLINE vec FC(load_lanes)(const real *p, ptrdiff_t lo, ptrdiff_t hi) {
    return (vec)_mm256_maskload_ps(p, (__m256i)FC(between)(lo, hi));
}
FC_INLINE void FC(store_lanes)(real *p, vec v, ptrdiff_t lo, ptrdiff_t hi) {
    _mm256_maskstore_ps(p, (__m256i)FC(between)(lo, hi), (__m256)v);
}
#elif defined(__AVX2__)
FC_INLINE vec FC(load_lanes)(const real *p, ptrdiff_t lo, ptrdiff_t hi) {
    return (vec)_mm256_maskload_pd(p, (__m256i)FC(between)(lo, hi));
}
FC_INLINE void FC(store_lanes)(real *p, vec v, ptrdiff_t lo, ptrdiff_t hi) {
    _mm256_maskstore_pd(p, (__m256i)FC(between)(lo, hi), (__m256d)v);
}
#else
FC_INLINE vec FC(load_lanes)(const real *p, ptrdiff_t lo, ptrdiff_t hi) {
    if (lo == 0 && hi == LANES)
        return FC(load)(p);
    real lanes[FC_VECTOR_BYTES / sizeof(real)] = {0};
    for (ptrdiff_t l = lo; l < hi; l++)
        lanes[l] = p[l];
    return FC(load)(lanes);
}
FC_INLINE void FC(store_lanes)(real *p, vec v, ptrdiff_t lo, ptrdiff_t hi) {
    if (lo == 0 && hi == LANES) {
        FC(store)(p, v);
        return;
    }
    real lanes[FC_VECTOR_BYTES / sizeof(real)];
    FC(store)(lanes, v);
    for (ptrdiff_t l = lo; l < hi; l++)
        p[l] = lanes[l];
}
#endif

#endif

/* row[at .. at + LANES) of a row of `width` elements; what lies outside the row is zero and is not touched. */
FC_INLINE vec FC(load_outer)(const real *row, ptrdiff_t at, ptrdiff_t width) {
    if (at >= width || at <= -LANES)
        return (vec){0};
    const ptrdiff_t lo = at < 0 ? -at : 0, hi = width - at < LANES ? width - at : LANES;
    return FC(load_lanes)(row + at, lo, hi);
}

/* Lanes 0 .. count - 1 to row[at ...], those that lie inside the row. */
FC_INLINE void FC(store_outer)(real *row, vec v, ptrdiff_t at, ptrdiff_t count, ptrdiff_t width) {
    const ptrdiff_t lo = at < 0 ? -at : 0, fit = width - at < LANES ? width - at : LANES, hi = count < fit ? count : fit;
    if (lo < hi)
        FC(store_lanes)(row + at, v, lo, hi);
}

#undef FC_EVEN
#undef FC_ODD
#undef FC_LOW
#undef FC_HIGH
#undef FC_IOTA
