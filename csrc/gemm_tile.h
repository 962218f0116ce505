/* The register tile of a matrix product: c (MR rows x NV vectors) (+)= a (MR x depth) * b (depth x NV vectors).
 *
 * b is a packed panel, step after step NV vectors side by side; a is read by broadcasts, either where it is (`a_row`
 * elements between rows, steps side by side) or packed (rows side by side, `a_step` elements between steps). MR * NV
 * sums, NV vectors of b and one broadcast fill the register file: 8 x 3 of 32 registers, 6 x 2 or 4 x 3 of 16. A step
 * of 6 x 2 takes 8 loads to 12 multiply-adds, of 8 x 3 11 to 24: the loads are no limit, and the panel stays in level 1
 * while all rows of a pass over it. */

#ifndef FC_GEMM_ROWS
#if FC_REGISTERS == 32
#define FC_GEMM_ROWS {8, 8, 8} /* most rows for 1, 2, 3 vectors */
#else
#define FC_GEMM_ROWS {6, 6, 4}
#endif
#define FC_GEMM_MAX_ROWS 8
#define FC_GEMM_VECTORS 3
#define FC_GEMM_SUMS 24
#endif

typedef struct {
    const real *a, *b;
    ptrdiff_t a_row, a_step; /* one of them is 1: which one says the function that is called */
    ptrdiff_t depth;
    real *c;
    ptrdiff_t c_row;
    int add;          /* to what is in c */
    const real *bias; /* one number a row, or NULL */
} FC(gemm_run);

/* MR and NV are literals at every call, and the body is inlined: the array becomes registers. */
FC_INLINE void FC(gemm_tile)(const int MR, const int NV, const int PACKED, const FC(gemm_run) *run) {
    const real *a = run->a, *b = run->b;
    const ptrdiff_t a_row = PACKED ? 1 : run->a_row, a_step = PACKED ? run->a_step : 1;
    vec sum[FC_GEMM_SUMS];
    FC_UNROLL for (int r = 0; r < MR; r++) { /* rows of c are pages apart: they come while the sums are computed */
        __builtin_prefetch(run->c + r * run->c_row, 1);
        __builtin_prefetch(run->c + r * run->c_row + NV * LANES - 1, 1);
    }
    FC_UNROLL for (int i = 0; i < MR * NV; i++) sum[i] = (vec){0};
    FC_ROLLED for (ptrdiff_t k = run->depth; k; k--, a += a_step, b += NV * LANES) {
        vec held[FC_GEMM_VECTORS];
        FC_UNROLL for (int v = 0; v < NV; v++) held[v] = FC(load)(b + v * LANES);
        FC_UNROLL for (int r = 0; r < MR; r++) {
            const vec weight = FC(splat)(a[r * a_row]);
            FC_UNROLL for (int v = 0; v < NV; v++) sum[r * NV + v] += weight * held[v];
        }
    }
    real *c = run->c;
    if (run->bias)
        FC_UNROLL for (int r = 0; r < MR; r++) {
            const vec bias = FC(splat)(run->bias[r]);
            FC_UNROLL for (int v = 0; v < NV; v++) sum[r * NV + v] += bias;
        }
    if (run->add)
        FC_UNROLL for (int r = 0; r < MR; r++)
            FC_UNROLL for (int v = 0; v < NV; v++) sum[r * NV + v] += FC(load)(c + r * run->c_row + v * LANES);
    FC_UNROLL for (int r = 0; r < MR; r++)
        FC_UNROLL for (int v = 0; v < NV; v++) FC(store)(c + r * run->c_row + v * LANES, sum[r * NV + v]);
}

/* A case per number of rows: literal sizes, so that nothing but registers is left of the array. */
FC_NOINLINE void FC(gemm_in_place_1)(int mr, const FC(gemm_run) *run) {
    switch (mr) {
    case 1: FC(gemm_tile)(1, 1, 0, run); break;
    case 2: FC(gemm_tile)(2, 1, 0, run); break;
    case 3: FC(gemm_tile)(3, 1, 0, run); break;
    case 4: FC(gemm_tile)(4, 1, 0, run); break;
    case 5: FC(gemm_tile)(5, 1, 0, run); break;
    case 6: FC(gemm_tile)(6, 1, 0, run); break;
#if FC_REGISTERS == 32
    case 7: FC(gemm_tile)(7, 1, 0, run); break;
    case 8: FC(gemm_tile)(8, 1, 0, run); break;
#endif
    }
}

FC_NOINLINE void FC(gemm_in_place_2)(int mr, const FC(gemm_run) *run) {
    switch (mr) {
    case 1: FC(gemm_tile)(1, 2, 0, run); break;
    case 2: FC(gemm_tile)(2, 2, 0, run); break;
    case 3: FC(gemm_tile)(3, 2, 0, run); break;
    case 4: FC(gemm_tile)(4, 2, 0, run); break;
    case 5: FC(gemm_tile)(5, 2, 0, run); break;
    case 6: FC(gemm_tile)(6, 2, 0, run); break;
#if FC_REGISTERS == 32
    case 7: FC(gemm_tile)(7, 2, 0, run); break;
    case 8: FC(gemm_tile)(8, 2, 0, run); break;
#endif
    }
}

FC_NOINLINE void FC(gemm_in_place_3)(int mr, const FC(gemm_run) *run) {
    switch (mr) {
    case 1: FC(gemm_tile)(1, 3, 0, run); break;
    case 2: FC(gemm_tile)(2, 3, 0, run); break;
    case 3: FC(gemm_tile)(3, 3, 0, run); break;
    case 4: FC(gemm_tile)(4, 3, 0, run); break;
#if FC_REGISTERS == 32
    case 5: FC(gemm_tile)(5, 3, 0, run); break;
    case 6: FC(gemm_tile)(6, 3, 0, run); break;
    case 7: FC(gemm_tile)(7, 3, 0, run); break;
    case 8: FC(gemm_tile)(8, 3, 0, run); break;
#endif
    }
}

FC_NOINLINE void FC(gemm_packed_1)(int mr, const FC(gemm_run) *run) {
    switch (mr) {
    case 1: FC(gemm_tile)(1, 1, 1, run); break;
    case 2: FC(gemm_tile)(2, 1, 1, run); break;
    case 3: FC(gemm_tile)(3, 1, 1, run); break;
    case 4: FC(gemm_tile)(4, 1, 1, run); break;
    case 5: FC(gemm_tile)(5, 1, 1, run); break;
    case 6: FC(gemm_tile)(6, 1, 1, run); break;
#if FC_REGISTERS == 32
    case 7: FC(gemm_tile)(7, 1, 1, run); break;
    case 8: FC(gemm_tile)(8, 1, 1, run); break;
#endif
    }
}

FC_NOINLINE void FC(gemm_packed_2)(int mr, const FC(gemm_run) *run) {
    switch (mr) {
    case 1: FC(gemm_tile)(1, 2, 1, run); break;
    case 2: FC(gemm_tile)(2, 2, 1, run); break;
    case 3: FC(gemm_tile)(3, 2, 1, run); break;
    case 4: FC(gemm_tile)(4, 2, 1, run); break;
    case 5: FC(gemm_tile)(5, 2, 1, run); break;
    case 6: FC(gemm_tile)(6, 2, 1, run); break;
#if FC_REGISTERS == 32
    case 7: FC(gemm_tile)(7, 2, 1, run); break;
    case 8: FC(gemm_tile)(8, 2, 1, run); break;
#endif
    }
}

FC_NOINLINE void FC(gemm_packed_3)(int mr, const FC(gemm_run) *run) {
    switch (mr) {
    case 1: FC(gemm_tile)(1, 3, 1, run); break;
    case 2: FC(gemm_tile)(2, 3, 1, run); break;
    case 3: FC(gemm_tile)(3, 3, 1, run); break;
    case 4: FC(gemm_tile)(4, 3, 1, run); break;
#if FC_REGISTERS == 32
    case 5: FC(gemm_tile)(5, 3, 1, run); break;
    case 6: FC(gemm_tile)(6, 3, 1, run); break;
    case 7: FC(gemm_tile)(7, 3, 1, run); break;
    case 8: FC(gemm_tile)(8, 3, 1, run); break;
#endif
    }
}

/* mr rows x nv vectors, mr at most FC_GEMM_ROWS[nv - 1]; a packed: its rows lie side by side. */
static void FC(run_gemm)(int packed, int mr, int nv, const FC(gemm_run) *run) {
    switch (packed * 3 + nv) {
    case 1: FC(gemm_in_place_1)(mr, run); break;
    case 2: FC(gemm_in_place_2)(mr, run); break;
    case 3: FC(gemm_in_place_3)(mr, run); break;
    case 4: FC(gemm_packed_1)(mr, run); break;
    case 5: FC(gemm_packed_2)(mr, run); break;
    case 6: FC(gemm_packed_3)(mr, run); break;
    }
}
