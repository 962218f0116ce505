/* A small vector vocabulary over GCC/Clang vector extensions: width from the ISA, element type from FC_BITS.
 *
 * Included once per element type by kernels.inc; the families are written over `real` (the element), `vec` (as many of
 * them as a register holds), `LANES` and the functions below. FC(name) gives a function its element's suffix, so that
 * both copies live in one object. Everything is static: objects compiled with different flags share no function.
 *
 * load, store, splat            whole vectors, aligned to the element only
 * load_lanes, store_lanes       only some lanes, a run of them, are touched in memory; the others read as zero
 * unzip, zip                    two vectors to their even and odd elements, and back
 * load_masked                   any set of lanes; the others are read but come as zero */
#ifndef FC_SIMD_H
#define FC_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(FC_EMULATE_VECTORS) /* 64-byte vectors from whatever there is: slow, for tests on CPUs without AVX-512 */
#define FC_VECTOR_BYTES 64
#define FC_REGISTERS 32
#elif defined(__AVX512F__)
#include <immintrin.h>
#define FC_VECTOR_BYTES 64
#define FC_REGISTERS 32
#define FC_X86_VECTORS
#elif defined(__AVX2__)
#include <immintrin.h>
#define FC_VECTOR_BYTES 32
#define FC_X86_VECTORS
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
#define FC_ROLLED _Pragma("clang loop unroll(disable)") /* twice the tile would not fit the registers */
#else
#define FC_ROLLED
#define FC_UNROLL _Pragma("GCC unroll 32")
#endif
#define FC_NOINLINE static __attribute__((noinline))
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
typedef real vec_in_memory __attribute__((vector_size(FC_VECTOR_BYTES), aligned(FC_BITS / 8)));
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

#if defined(__clang__)
#define FC_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define FC_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (FC(ints)){__VA_ARGS__})
#endif
FC_INLINE vec FC(unzip_even)(vec a, vec b) { return FC_SHUFFLE(a, b, FC_EVEN); }
FC_INLINE vec FC(unzip_odd)(vec a, vec b) { return FC_SHUFFLE(a, b, FC_ODD); }
FC_INLINE vec FC(zip_low)(vec even, vec odd) { return FC_SHUFFLE(even, odd, FC_LOW); }
FC_INLINE vec FC(zip_high)(vec even, vec odd) { return FC_SHUFFLE(even, odd, FC_HIGH); }
#undef FC_SHUFFLE

/* Unzip and zip with half the shuffles where a register has two halves: pair_even and pair_odd leave their elements in
 * an order of lanes that in_order puts right, and pair_zip wants vectors that went through before_zip. */
#if defined(FC_X86_VECTORS) && FC_VECTOR_BYTES == 32
#if FC_BITS == 32
FC_INLINE vec FC(pair_even)(vec a, vec b) { return (vec)_mm256_shuffle_ps((__m256)a, (__m256)b, 0x88); }
FC_INLINE vec FC(pair_odd)(vec a, vec b) { return (vec)_mm256_shuffle_ps((__m256)a, (__m256)b, 0xdd); }
FC_INLINE vec FC(pair_zip_low)(vec a, vec b) { return (vec)_mm256_unpacklo_ps((__m256)a, (__m256)b); }
FC_INLINE vec FC(pair_zip_high)(vec a, vec b) { return (vec)_mm256_unpackhi_ps((__m256)a, (__m256)b); }
#else
FC_INLINE vec FC(pair_even)(vec a, vec b) { return (vec)_mm256_unpacklo_pd((__m256d)a, (__m256d)b); }
FC_INLINE vec FC(pair_odd)(vec a, vec b) { return (vec)_mm256_unpackhi_pd((__m256d)a, (__m256d)b); }
FC_INLINE vec FC(pair_zip_low)(vec a, vec b) { return FC(pair_even)(a, b); }
FC_INLINE vec FC(pair_zip_high)(vec a, vec b) { return FC(pair_odd)(a, b); }
#endif
FC_INLINE vec FC(in_order)(vec v) { return (vec)_mm256_permute4x64_pd((__m256d)v, 0xd8); }
FC_INLINE vec FC(before_zip)(vec v) { return FC(in_order)(v); }
#else
FC_INLINE vec FC(pair_even)(vec a, vec b) { return FC(unzip_even)(a, b); }
FC_INLINE vec FC(pair_odd)(vec a, vec b) { return FC(unzip_odd)(a, b); }
FC_INLINE vec FC(pair_zip_low)(vec a, vec b) { return FC(zip_low)(a, b); }
FC_INLINE vec FC(pair_zip_high)(vec a, vec b) { return FC(zip_high)(a, b); }
FC_INLINE vec FC(in_order)(vec v) { return v; }
FC_INLINE vec FC(before_zip)(vec v) { return v; }
#endif

/* Some lanes of a vector, lo <= l < hi with 0 <= lo, hi <= LANES: a mask register, a mask vector, or the two numbers.
 * mask: any set of lanes, for loads whose masked lanes may be read but count as zero. */
#if defined(FC_X86_VECTORS) && FC_VECTOR_BYTES == 64

#if FC_BITS == 32
typedef __mmask16 FC(lanes);
FC_INLINE vec FC(load_lanes)(const real *p, FC(lanes) m) { return (vec)_mm512_maskz_loadu_ps(m, p); }
FC_INLINE void FC(store_lanes)(real *p, vec v, FC(lanes) m) { _mm512_mask_storeu_ps(p, m, (__m512)v); }
#else
typedef __mmask8 FC(lanes);
FC_INLINE vec FC(load_lanes)(const real *p, FC(lanes) m) { return (vec)_mm512_maskz_loadu_pd(m, p); }
FC_INLINE void FC(store_lanes)(real *p, vec v, FC(lanes) m) { _mm512_mask_storeu_pd(p, m, (__m512d)v); }
#endif
FC_INLINE FC(lanes) FC(between)(ptrdiff_t lo, ptrdiff_t hi) {
    return (FC(lanes))((((uint32_t)1 << hi) - 1) & ~(((uint32_t)1 << lo) - 1));
}
typedef FC(lanes) FC(mask);
FC_INLINE FC(mask) FC(mask_between)(ptrdiff_t lo, ptrdiff_t hi) { return FC(between)(lo, hi); }
FC_INLINE vec FC(load_masked)(const real *p, FC(mask) m) { return FC(load_lanes)(p, m); }

#else

typedef FC(ints) FC(mask);
FC_INLINE FC(mask) FC(mask_between)(ptrdiff_t lo, ptrdiff_t hi) {
    const FC(ints) lane = {FC_IOTA};
    return (lane >= (int_lane)lo) & (lane < (int_lane)hi);
}
FC_INLINE vec FC(load_masked)(const real *p, FC(mask) m) { return (vec)((FC(ints))FC(load)(p) & m); }

#if defined(FC_X86_VECTORS)

typedef FC(ints) FC(lanes);
FC_INLINE FC(lanes) FC(between)(ptrdiff_t lo, ptrdiff_t hi) { return FC(mask_between)(lo, hi); }
#if FC_BITS == 32
FC_INLINE vec FC(load_lanes)(const real *p, FC(lanes) m) { return (vec)_mm256_maskload_ps(p, (__m256i)m); }
FC_INLINE unsigned FC(lane_bits)(FC(lanes) m) { return (unsigned)_mm256_movemask_ps((__m256)m); }
#else
FC_INLINE vec FC(load_lanes)(const real *p, FC(lanes) m) { return (vec)_mm256_maskload_pd(p, (__m256i)m); }
FC_INLINE unsigned FC(lane_bits)(FC(lanes) m) { return (unsigned)_mm256_movemask_pd((__m256d)m); }
#endif

/* A run of lanes in two overlapping pieces of 16, 8 or 4 bytes: AMD's masked store is microcode, 14 cycles at best
 * (Zen 3, and 50 where it misses the cache) where this takes 6, and 3 for a whole vector. */
FC_INLINE void FC(store_lanes)(real *p, vec v, FC(lanes) m) {
    const unsigned bits = FC(lane_bits)(m);
    if (bits == (1u << LANES) - 1) {
        FC(store)(p, v);
        return;
    }
    real lanes[FC_VECTOR_BYTES / sizeof(real)];
    const int from = __builtin_ctz(bits | 1u << LANES), bytes = __builtin_popcount(bits) * (int)sizeof(real);
    FC(store)(lanes, v);
    char *to = (char *)(p + from);
    const char *run = (const char *)(lanes + from);
    if (bytes >= 16) {
        const __m128 head = _mm_loadu_ps((const float *)run), tail = _mm_loadu_ps((const float *)(run + bytes - 16));
        _mm_storeu_ps((float *)to, head);
        _mm_storeu_ps((float *)(to + bytes - 16), tail);
    } else if (bytes >= 8) {
        uint64_t head, tail;
        memcpy(&head, run, 8);
        memcpy(&tail, run + bytes - 8, 8);
        memcpy(to, &head, 8);
        memcpy(to + bytes - 8, &tail, 8);
    } else if (bytes) {
        memcpy(to, run, 4);
    }
}

#else

typedef struct {
    int lo, hi;
} FC(lanes);
FC_INLINE FC(lanes) FC(between)(ptrdiff_t lo, ptrdiff_t hi) { return (FC(lanes)){(int)lo, (int)hi}; }
FC_INLINE vec FC(load_lanes)(const real *p, FC(lanes) m) {
    if (m.lo == 0 && m.hi == LANES)
        return FC(load)(p);
    real lanes[FC_VECTOR_BYTES / sizeof(real)] = {0};
    for (int l = m.lo; l < m.hi; l++)
        lanes[l] = p[l];
    return FC(load)(lanes);
}
FC_INLINE void FC(store_lanes)(real *p, vec v, FC(lanes) m) {
    if (m.lo == 0 && m.hi == LANES) {
        FC(store)(p, v);
        return;
    }
    real lanes[FC_VECTOR_BYTES / sizeof(real)];
    FC(store)(lanes, v);
    for (int l = m.lo; l < m.hi; l++)
        p[l] = lanes[l];
}

#endif
#endif

/* The lanes that lie inside a row of `width` elements where lane 0 is element `at` of it. */
FC_INLINE FC(lanes) FC(inside)(ptrdiff_t at, ptrdiff_t width) {
    const ptrdiff_t hi = width - at < 0 ? 0 : width - at < LANES ? width - at : LANES;
    const ptrdiff_t lo = at > 0 ? 0 : -at < hi ? -at : hi;
    return FC(between)(lo, hi);
}

/* A tall, thin transpose: 16 bytes of each of LANES rows that lie `step` apart become FC_TURN vectors, out[i] holding
 * element i of every row. Pieces of 16 bytes are loaded straight to where they end up, so that only shuffles within
 * pieces are left, half as many as a network over whole vectors has. */
#if FC_VECTOR_BYTES == 64 && defined(FC_X86_VECTORS)
FC_INLINE vec FC(load_pieces)(const real *p, ptrdiff_t step) {
    __m512 v = _mm512_castps128_ps512(_mm_loadu_ps((const float *)p));
    v = _mm512_mask_broadcast_f32x4(v, 0x00f0, _mm_loadu_ps((const float *)(p + step)));
    v = _mm512_mask_broadcast_f32x4(v, 0x0f00, _mm_loadu_ps((const float *)(p + 2 * step)));
    return (vec)_mm512_mask_broadcast_f32x4(v, 0xf000, _mm_loadu_ps((const float *)(p + 3 * step)));
}
#define FC_PIECES(name, a, b) ((vec)_mm512_##name((__m512d)(a), (__m512d)(b)))
#define FC_PIECES_SINGLE(name, a, b) ((vec)_mm512_##name((__m512)(a), (__m512)(b)))
#elif defined(FC_X86_VECTORS)
FC_INLINE vec FC(load_pieces)(const real *p, ptrdiff_t step) {
    const __m256 low = _mm256_castps128_ps256(_mm_loadu_ps((const float *)p));
    return (vec)_mm256_insertf128_ps(low, _mm_loadu_ps((const float *)(p + step)), 1);
}
#define FC_PIECES(name, a, b) ((vec)_mm256_##name((__m256d)(a), (__m256d)(b)))
#define FC_PIECES_SINGLE(name, a, b) ((vec)_mm256_##name((__m256)(a), (__m256)(b)))
#elif FC_VECTOR_BYTES == 16
FC_INLINE vec FC(load_pieces)(const real *p, ptrdiff_t step) {
    (void)step;
    return FC(load)(p);
}
#endif

#undef FC_TURN
#if FC_BITS == 32
#define FC_TURN 4
#else
#define FC_TURN 2
#endif
#ifdef FC_EMULATE_VECTORS
FC_INLINE void FC(turn)(const real *p, ptrdiff_t step, vec *out) {
    for (int i = 0; i < FC_TURN; i++)
        for (int l = 0; l < (int)LANES; l++)
            out[i][l] = p[l * step + i];
}
#else
FC_INLINE void FC(turn)(const real *p, ptrdiff_t step, vec *out) {
    const vec a = FC(load_pieces)(p, FC_TURN * step), b = FC(load_pieces)(p + step, FC_TURN * step);
#if FC_BITS == 32
    const vec c = FC(load_pieces)(p + 2 * step, 4 * step), d = FC(load_pieces)(p + 3 * step, 4 * step);
#if FC_VECTOR_BYTES > 16
    const vec ab = FC_PIECES_SINGLE(unpacklo_ps, a, b), cd = FC_PIECES_SINGLE(unpacklo_ps, c, d);
    const vec ef = FC_PIECES_SINGLE(unpackhi_ps, a, b), gh = FC_PIECES_SINGLE(unpackhi_ps, c, d);
    out[0] = FC_PIECES(unpacklo_pd, ab, cd);
    out[1] = FC_PIECES(unpackhi_pd, ab, cd);
    out[2] = FC_PIECES(unpacklo_pd, ef, gh);
    out[3] = FC_PIECES(unpackhi_pd, ef, gh);
#else
    const vec ac = FC(zip_low)(a, c), bd = FC(zip_low)(b, d), eg = FC(zip_high)(a, c), fh = FC(zip_high)(b, d);
    out[0] = FC(zip_low)(ac, bd);
    out[1] = FC(zip_high)(ac, bd);
    out[2] = FC(zip_low)(eg, fh);
    out[3] = FC(zip_high)(eg, fh);
#endif
#elif FC_VECTOR_BYTES > 16
    out[0] = FC_PIECES(unpacklo_pd, a, b);
    out[1] = FC_PIECES(unpackhi_pd, a, b);
#else
    out[0] = FC(zip_low)(a, b);
    out[1] = FC(zip_high)(a, b);
#endif
}
#endif
#undef FC_PIECES
#undef FC_PIECES_SINGLE

#undef FC_EVEN
#undef FC_ODD
#undef FC_LOW
#undef FC_HIGH
#undef FC_IOTA
