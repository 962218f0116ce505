/* fft: all three operations of one-row kernels at stride 1 by overlap-save: the cost of long filters grows with log S.
 *
 * A block of N = 2M signal values times a filter is a product of polynomials modulo x^N + 1, where what wraps around
 * changes its sign and lands outside the window that is kept, as in the usual overlap-save (Oppenheim and Schafer,
 * Discrete-Time Signal Processing, section 8.7). Modulo x^N + 1 real polynomials are complex ones modulo x^M - i: fold
 * z[n] = a[n] + i a[n + M]. So a real block is one complex transform of half its length, without the untangling that a
 * packed real transform modulo x^N - 1 needs, and since real signals' values at conjugate roots are conjugates,
 * multiplying by conj(W) correlates and by W convolves.
 *
 * The transform splits x^m - c^2 into (x^(m/2) - c)(x^(m/2) + c), log2(M) times (Fiduccia 1972; Bernstein, Multidigit
 * multiplication for mathematicians, 2001): node h of a binary heap has one twiddle c[h], constant in its inner loop,
 * the angles are phi[1] = pi/4, phi[2h] = phi[h]/2, phi[2h+1] = phi[h]/2 + pi/2. Values come out in the heap's order,
 * in which they are multiplied and from which the inverse starts: nothing is ever reordered. Two levels a pass (radix
 * 4), the nodes that exceed level 1 depth first.
 *
 * LANES transforms run side by side, one a lane, so nothing is shuffled but on the way in and out:
 *     z [M][re, im][LANES]
 * What the lanes are is chosen by cost: blocks of any signals, all under one filter (its spectrum is broadcast), or
 * the same block of LANES groups (depthwise: the spectra of the filters are in the lanes too). backward_weight
 * multiplies the spectra of x and y block by block and adds them up; one transform at the end, with out-channels (or
 * groups) in the lanes. Of x and y the one with the fewer positions is cut into pieces, the other overlaps.
 *
 * Error: against float64, relative to the largest output, 1e-7 to 7e-7 in float32 on random data (measured up to 2^20
 * taps). NaN and infinity spread over a block, and large numbers may overflow on the way; every output of such a block
 * is then NaN or infinite, as all of its values enter each. So the outputs are watched before the bias is added, and
 * where one is not finite the whole call is done again by direct summation.
 *
 * Workspace: that of the direct summation, or the twiddles, the spectra of the filters (or the sums of products), and
 * for each worker the blocks that it transforms: whichever is more. It does not grow with the length of the signals. */
#ifndef FC_FFT_H
#define FC_FFT_H

enum {
    FC_FFT_LEAST = 3,        /* log2 of the fewest complex points: 2M is a multiple of every LANES */
    FC_FFT_MOST = 22,        /* of the most */
    FC_FFT_NEAR = 16 << 10,  /* bytes of a node up to which passes go breadth first: half of level 1 */
    FC_FFT_L1 = 32 << 10,    /* for the cost of a block alone */
    FC_FFT_L2 = 512 << 10,
    FC_FFT_CHUNK = 64,       /* positions of a block that are brought in at a time */
    FC_FFT_TAPS = 16,        /* fewest for which it is considered */
    FC_FFT_PRODUCTS = 100000,
    FC_FFT_BYTES = 512 << 20,
    FC_FFT_HOLD = 1 << 19    /* backward_weight: bytes of spectra of x, one block at least, held while y's pass by */
};

#define FC_FFT_MARGIN 1.3

/* exp(i pi / 2^b): cosine, sine */
static const double fc_fft_roots[][2] = {
    {-1.0, 0.0},
    {0.0, 1.0},
    {0.70710678118654752440, 0.70710678118654752440},
    {0.92387953251128675613, 0.38268343236508977173},
    {0.98078528040323044913, 0.19509032201612826785},
    {0.99518472667219688624, 0.098017140329560601994},
    {0.99879545620517239271, 0.049067674327418014255},
    {0.99969881869620422012, 0.024541228522912288032},
    {0.99992470183914454092, 0.012271538285719926079},
    {0.99998117528260114266, 0.0061358846491544753596},
    {0.99999529380957617151, 0.0030679567629659762701},
    {0.99999882345170190993, 0.0015339801862847656123},
    {0.99999970586288221916, 0.00076699031874270452694},
    {0.99999992646571785114, 0.00038349518757139558907},
    {0.99999998161642929381, 0.00019174759731070330744},
    {0.99999999540410731289, 0.000095873799095977345871},
    {0.99999999885102682756, 0.000047936899603066884549},
    {0.99999999971275670685, 0.000023968449808418218729},
    {0.99999999992818917671, 0.000011984224905069706422},
    {0.99999999998204729418, 5.9921124526424278429e-6},
    {0.99999999999551182354, 2.9960562263346607505e-6},
    {0.99999999999887795589, 1.4980281131690112289e-6},
    {0.99999999999971948897, 7.4901405658471572113e-7},
    {0.99999999999992987224, 3.7450702829238412390e-7},
    {0.99999999999998246806, 1.8725351414619534487e-7},
    {0.99999999999999561702, 9.3626757073098082799e-8},
};

/* All three operations as one: `from` is cut into overlapping blocks. Forward and backward_input multiply its spectra
 * by those of w and write `other`; backward_weight multiplies them by those of pieces of `other` and writes w. */
typedef struct {
    const fc_call *call;
    int weight, swapped;                       /* backward_weight; `from` is y */
    ptrdiff_t rows, signals, groups;           /* rows of an image, rows in all */
    ptrdiff_t in, out;                         /* channels a group, of `from` and of the other */
    ptrdiff_t from_n, other_n, taps, pad;
    int conjugate, reversed;
    ptrdiff_t w_out, w_in, w_group;            /* distances in w, elements */
    /* the plan */
    int log2_points, by_group;
    ptrdiff_t points, step, blocks, total;     /* complex points; outputs of a block; blocks of a signal, in all */
    ptrdiff_t lead, window;                    /* block b begins at b * step - lead; where in it the outputs begin */
    ptrdiff_t batches, group_batches;          /* of LANES blocks; of LANES groups, or each group for itself */
    ptrdiff_t parts, runs;                     /* of the out-channels, of the batches, that threads take apart */
    ptrdiff_t hold;                            /* backward_weight: batches whose spectra are held */
    ptrdiff_t chunk;                           /* otherwise: in-channels; where not all, the sums of all outputs are */
    ptrdiff_t out_blocks;                      /* of LANES out-channels; by_group: of one */
    ptrdiff_t spectrum, filters_n;             /* elements: from one spectrum to the next; of all filters of a group */
    size_t roots_bytes, filters_bytes, own_filters_bytes, held_bytes, block_bytes;
    char *workers;
    void *roots, *filters;
} fc_fft;

static inline fc_fft fc_fft_problem(const fc_geometry *g, fc_operation operation) {
    const ptrdiff_t C = g->C / g->groups, K = g->K / g->groups;
    fc_fft p = {.rows = g->H, .signals = g->N * g->H, .groups = g->groups, .taps = g->S, .w_group = K * C * g->S};
    p.weight = operation == FC_BACKWARD_WEIGHT;
    /* y overlaps where it is longer, but not where some of it meets padding alone: its blocks would leave that out */
    const int all_of_y = g->pad_w < g->S && g->Q <= g->W + g->pad_w;
    p.swapped = p.weight ? g->W < g->Q && all_of_y : operation == FC_BACKWARD_INPUT;
    p.in = p.swapped ? K : C, p.out = p.swapped ? C : K;
    p.from_n = p.swapped ? g->Q : g->W, p.other_n = p.swapped ? g->W : g->Q;
    p.pad = g->pad_w;
    p.w_out = p.swapped ? g->S : C * g->S, p.w_in = p.swapped ? C * g->S : g->S;
    p.conjugate = operation != FC_BACKWARD_INPUT;
    p.reversed = p.weight && p.swapped;
    return p;
}

static const char *fft_unsupported(const fc_geometry *g) {
    if (g->R != 1 || g->stride_h != 1 || g->pad_h || g->P != g->H)
        return "a kernel of several rows";
    if (g->stride_w != 1)
        return "not stride 1";
    if (g->dilation_w != 1 && g->S > 1)
        return "dilation";
    if (g->S > (ptrdiff_t)1 << FC_FFT_MOST)
        return "a kernel of more than 2^22 taps";
    return NULL;
}

/* ---- the plan: the size of a block, and what the lanes are */

/* Cycles of one transform of LANES blocks, and of bringing them in or out, as measured (Zen 3, AVX2). */
static inline double fc_fft_cost(const fc_fft *p, ptrdiff_t vector_bytes) {
    const double bytes = 2.0 * (double)p->points * (double)vector_bytes;
    const double reach = bytes <= FC_FFT_L1 ? 1.0 : bytes <= FC_FFT_L2 ? 1.2 : 1.7;
    return (double)p->points * ((double)p->log2_points * reach + 4);
}

static inline double fc_fft_divided(double items, int threads) { /* over threads, by whole items */
    const double rounds = (double)(ptrdiff_t)(items / threads);
    return rounds * threads < items ? rounds + 1 : rounds;
}

/* Cuts the signals into blocks. Where a row and what its convolution is longer fit in one, it is the only one. */
static inline void fc_fft_cut(fc_fft *p) {
    const ptrdiff_t N = 2 * p->points, cut = p->other_n, reach = p->taps - 1;
    const ptrdiff_t whole = p->swapped ? p->pad : reach - p->pad; /* where in a single block the outputs begin */
    if (!p->weight && p->from_n + reach <= N && whole >= 0 && whole + cut <= N) {
        p->step = cut;
        p->lead = p->swapped ? 0 : reach;
        p->window = whole;
    } else {
        p->step = fc_min(N - reach, cut);
        p->lead = p->swapped ? reach - p->pad : p->pad;
        p->window = p->swapped ? reach : 0;
    }
    p->blocks = fc_ceil_div(cut, p->step), p->total = p->signals * p->blocks;
}

/* Whether the `wide` filters of a block, fewer than its lanes, are transformed one by one, each in all lanes: that
 * takes about a quarter of the block's time. */
static inline int fc_fft_alone(const fc_fft *p, ptrdiff_t lanes, ptrdiff_t wide) {
    return 4 * wide <= lanes && p->points >= lanes * lanes;
}

/* Fills in the plan of blocks of 2^log2_points complex points; returns the cycles that it would take. */
static inline double fc_fft_try(fc_fft *p, int log2_points, int by_group, int threads, ptrdiff_t lanes,
                                ptrdiff_t size) {
    const ptrdiff_t M = (ptrdiff_t)1 << log2_points;
    p->log2_points = log2_points, p->by_group = by_group, p->points = M;
    fc_fft_cut(p);
    p->batches = by_group ? p->total : fc_ceil_div(p->total, lanes);
    p->group_batches = by_group ? fc_ceil_div(p->groups, lanes) : p->groups;
    p->out_blocks = by_group ? p->out : fc_ceil_div(p->out, lanes);
    p->parts = p->runs = 1;
    const int uneven = p->group_batches % threads && p->group_batches < 8 * threads;
    if (uneven && (p->weight || by_group))
        p->runs = fc_min(p->batches, threads);
    if (uneven && !by_group && p->batches * (p->weight ? 1 : p->group_batches) < threads)
        p->parts = fc_min(p->out, threads);
    const double in = (double)p->in, out = (double)p->out, transform = fc_fft_cost(p, lanes * size);
    /* a product, or one added to a sum in memory and the sums' lanes folded into one */
    const double product = (p->weight ? by_group ? 5 : 8 : 2) * in * (double)M;
    const double batch = in * transform + out / (double)p->parts * (transform + product);
    const double filters = (double)p->group_batches * (double)p->out_blocks * in * transform;
    if (by_group && !p->weight)
        return fc_fft_divided((double)(p->group_batches * p->runs), threads) *
               (filters / (double)p->group_batches + batch * (double)fc_ceil_div(p->batches, p->runs));
    const double items = (double)(p->group_batches * p->parts) * (double)(p->weight ? p->runs : p->batches);
    const double each = p->weight ? (double)fc_ceil_div(p->batches, p->runs) : 1;
    return fc_fft_divided((double)(p->group_batches * p->out_blocks * p->in), threads) * filters /
               (double)(p->group_batches * p->out_blocks * p->in) +
           fc_fft_divided(items, threads) * each * batch;
}

/* The cheapest plan; *cycles: its cost. */
static inline fc_fft fc_fft_plan(const fc_geometry *g, fc_operation operation, int threads, ptrdiff_t lanes,
                                 ptrdiff_t size, double *cycles) {
    fc_fft p = fc_fft_problem(g, operation), best = p;
    *cycles = 0;
    const ptrdiff_t needed = p.other_n + p.taps - 1; /* one block that holds all */
    for (int log2 = FC_FFT_LEAST; log2 <= FC_FFT_MOST + 1; log2++) {
        if ((ptrdiff_t)2 << log2 < p.taps)
            continue;
        for (int by_group = 0; by_group <= (p.groups > 1); by_group++) {
            const double cost = fc_fft_try(&p, log2, by_group, threads, lanes, size);
            if (*cycles == 0 || cost < *cycles) {
                *cycles = cost;
                best = p;
            }
        }
        if ((ptrdiff_t)2 << log2 >= needed || (ptrdiff_t)2 << log2 >= 32 * p.taps)
            break;
    }
    const ptrdiff_t M = best.points;
    best.spectrum = (M + 1) * 2 * lanes; /* not a power of two: channels begin in different sets of the cache */
    const ptrdiff_t one = best.spectrum * size;
    best.roots_bytes = fc_round_up((size_t)(2 * M * size));
    best.hold = 1;
    if (best.weight && !best.by_group)
        best.hold = fc_clip(FC_FFT_HOLD / (best.in * one), 1, fc_ceil_div(best.batches, best.runs));
    const int single = best.in == 1 && best.out == 1;
    best.chunk = best.out < best.in ? fc_clip(FC_FFT_HOLD / one, 1, best.in) : best.in;
    if (best.weight)
        best.held_bytes = fc_round_up((size_t)(best.in * best.hold * one));
    else
        best.held_bytes = single ? 0 : fc_round_up((size_t)(best.chunk * one));
    best.block_bytes = fc_round_up((size_t)((best.weight || best.chunk == best.in ? 1 : best.out) * one));
    best.filters_n = best.in * best.out_blocks * best.spectrum;
    if (best.weight) {
        best.filters_bytes = fc_round_up((size_t)(best.runs * best.group_batches * best.filters_n * size));
        best.own_filters_bytes = best.by_group ? 0 : fc_round_up((size_t)(best.in * one));
    } else if (best.by_group) {
        best.own_filters_bytes = fc_round_up((size_t)(best.filters_n * size));
    } else {
        const ptrdiff_t rest = best.out % lanes; /* the last block of out-channels holds no empty lanes */
        best.filters_n -= rest ? best.in * (lanes - rest) * 2 * M : 0;
        best.filters_bytes = fc_round_up((size_t)(best.group_batches * best.filters_n * size));
    }
    return best;
}

static inline size_t fc_fft_worker_bytes(const fc_fft *p) {
    return FC_LINE + p->own_filters_bytes + p->held_bytes + p->block_bytes;
}

static inline size_t fc_fft_bytes(const fc_fft *p, int threads) {
    return p->roots_bytes + p->filters_bytes + (size_t)threads * fc_fft_worker_bytes(p);
}

/* A worker's share of the workspace. */
typedef struct {
    int *poisoned; /* an output was not finite */
    void *filters, *held, *block;
} fc_fft_worker;

static inline fc_fft_worker fc_fft_space(const fc_fft *p, int number) {
    char *at = p->workers + (size_t)number * fc_fft_worker_bytes(p);
    fc_fft_worker space;
    space.poisoned = (int *)at;
    space.filters = at += FC_LINE;
    space.held = at += p->own_filters_bytes;
    space.block = at + p->held_bytes;
    return space;
}

#endif

/* ---- butterflies. A twiddle is four numbers apart from its node's only, so it stays in registers in the inner loop */

typedef struct {
    vec re, im;
} FC(complex);

FC_INLINE FC(complex) FC(load_complex)(const real *z) { return (FC(complex)){FC(load)(z), FC(load)(z + LANES)}; }
FC_INLINE void FC(store_complex)(real *z, FC(complex) a) {
    FC(store)(z, a.re);
    FC(store)(z + LANES, a.im);
}
FC_INLINE FC(complex) FC(splat_complex)(const real *c) { return (FC(complex)){FC(splat)(c[0]), FC(splat)(c[1])}; }
FC_INLINE FC(complex) FC(complex_add)(FC(complex) a, FC(complex) b) { return (FC(complex)){a.re + b.re, a.im + b.im}; }
FC_INLINE FC(complex) FC(complex_subtract)(FC(complex) a, FC(complex) b) {
    return (FC(complex)){a.re - b.re, a.im - b.im};
}
FC_INLINE FC(complex) FC(complex_multiply)(FC(complex) a, FC(complex) b) {
    return (FC(complex)){a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
FC_INLINE FC(complex) FC(complex_multiply_conjugate)(FC(complex) a, FC(complex) b) { /* a conj(b) */
    return (FC(complex)){a.re * b.re + a.im * b.im, a.im * b.re - a.re * b.im};
}
FC_INLINE FC(complex) FC(complex_times_i)(FC(complex) a) { return (FC(complex)){-a.im, a.re}; }

/* a, b = a + c b, a - c b */
FC_INLINE void FC(fft_split)(FC(complex) *a, FC(complex) *b, FC(complex) c) {
#if FC_REGISTERS == 32 /* six multiply-adds in place of four and four additions, which there take the same ports */
    const FC(complex) sum = {a->re + c.re * b->re - c.im * b->im, a->im + c.re * b->im + c.im * b->re};
    *b = (FC(complex)){2 * a->re - sum.re, 2 * a->im - sum.im};
    *a = sum;
#else
    const FC(complex) t = FC(complex_multiply)(c, *b);
    *b = FC(complex_subtract)(*a, t);
    *a = FC(complex_add)(*a, t);
#endif
}

/* a, b = a + b, (a - b) conj(c) */
FC_INLINE void FC(fft_join)(FC(complex) *a, FC(complex) *b, FC(complex) c) {
    const FC(complex) difference = FC(complex_subtract)(*a, *b);
    *a = FC(complex_add)(*a, *b);
    *b = FC(complex_multiply_conjugate)(difference, c);
}

/* Two levels: a node with twiddle c into its grandchildren; d is the twiddle of its first child, i d of the other. */
FC_INLINE void FC(fft_split_twice)(FC(complex) *a, FC(complex) c, FC(complex) d) {
    FC(fft_split)(&a[0], &a[2], c);
    FC(fft_split)(&a[1], &a[3], c);
    FC(fft_split)(&a[0], &a[1], d);
    a[3] = FC(complex_times_i)(a[3]);
    FC(fft_split)(&a[2], &a[3], d);
}

FC_INLINE void FC(fft_join_twice)(FC(complex) *a, FC(complex) c, FC(complex) d) {
    FC(fft_join)(&a[0], &a[1], d);
    FC(complex) difference = FC(complex_subtract)(a[2], a[3]);
    a[2] = FC(complex_add)(a[2], a[3]);
    difference = (FC(complex)){difference.im, -difference.re}; /* times conj(i) */
    a[3] = FC(complex_multiply_conjugate)(difference, d);
    FC(fft_join)(&a[0], &a[2], c);
    FC(fft_join)(&a[1], &a[3], c);
}

/* ---- passes: `count` nodes from heap number h on, of 4 * quarter (2 * half) points each */

FC_INLINE void FC(fft_forward_nodes)(const real *roots, real *z, ptrdiff_t quarter, ptrdiff_t h, ptrdiff_t count) {
    const ptrdiff_t apart = quarter * 2 * LANES;
    for (ptrdiff_t node = h; node < h + count; node++, z += 3 * apart) {
        const FC(complex) c = FC(splat_complex)(roots + 2 * node), d = FC(splat_complex)(roots + 4 * node);
        for (ptrdiff_t n = 0; n < quarter; n++, z += 2 * LANES) {
            FC(complex) a[4];
            FC_UNROLL for (int i = 0; i < 4; i++) a[i] = FC(load_complex)(z + i * apart);
            FC(fft_split_twice)(a, c, d);
            FC_UNROLL for (int i = 0; i < 4; i++) FC(store_complex)(z + i * apart, a[i]);
        }
    }
}

FC_INLINE void FC(fft_inverse_nodes)(const real *roots, real *z, ptrdiff_t quarter, ptrdiff_t h, ptrdiff_t count) {
    const ptrdiff_t apart = quarter * 2 * LANES;
    for (ptrdiff_t node = h; node < h + count; node++, z += 3 * apart) {
        const FC(complex) c = FC(splat_complex)(roots + 2 * node), d = FC(splat_complex)(roots + 4 * node);
        for (ptrdiff_t n = 0; n < quarter; n++, z += 2 * LANES) {
            FC(complex) a[4];
            FC_UNROLL for (int i = 0; i < 4; i++) a[i] = FC(load_complex)(z + i * apart);
            FC(fft_join_twice)(a, c, d);
            FC_UNROLL for (int i = 0; i < 4; i++) FC(store_complex)(z + i * apart, a[i]);
        }
    }
}

FC_NOINLINE void FC(fft_forward_pass)(const real *roots, real *z, ptrdiff_t quarter, ptrdiff_t h, ptrdiff_t count) {
    if (quarter == 1)
        FC(fft_forward_nodes)(roots, z, 1, h, count);
    else
        FC(fft_forward_nodes)(roots, z, quarter, h, count);
}

FC_NOINLINE void FC(fft_inverse_pass)(const real *roots, real *z, ptrdiff_t quarter, ptrdiff_t h, ptrdiff_t count) {
    if (quarter == 1)
        FC(fft_inverse_nodes)(roots, z, 1, h, count);
    else
        FC(fft_inverse_nodes)(roots, z, quarter, h, count);
}

/* The root alone, where the number of levels is odd. */
FC_NOINLINE void FC(fft_forward_root)(const real *roots, real *z, ptrdiff_t half) {
    const FC(complex) c = FC(splat_complex)(roots + 2);
    real *other = z + half * 2 * LANES;
    for (ptrdiff_t n = 0; n < half; n++, z += 2 * LANES, other += 2 * LANES) {
        FC(complex) a = FC(load_complex)(z), b = FC(load_complex)(other);
        FC(fft_split)(&a, &b, c);
        FC(store_complex)(z, a);
        FC(store_complex)(other, b);
    }
}

FC_NOINLINE void FC(fft_inverse_root)(const real *roots, real *z, ptrdiff_t half) {
    const FC(complex) c = FC(splat_complex)(roots + 2);
    real *other = z + half * 2 * LANES;
    for (ptrdiff_t n = 0; n < half; n++, z += 2 * LANES, other += 2 * LANES) {
        FC(complex) a = FC(load_complex)(z), b = FC(load_complex)(other);
        FC(fft_join)(&a, &b, c);
        FC(store_complex)(z, a);
        FC(store_complex)(other, b);
    }
}

/* Node h of m points, a power of 4, down to nodes of `last` points (1: to the end). */
static void FC(fft_forward_node)(const real *roots, real *z, ptrdiff_t m, ptrdiff_t h, ptrdiff_t last) {
    if (m * 2 * FC_VECTOR_BYTES > FC_FFT_NEAR && m > 4 * last) {
        FC(fft_forward_pass)(roots, z, m / 4, h, 1);
        for (ptrdiff_t i = 0; i < 4; i++)
            FC(fft_forward_node)(roots, z + i * (m / 4) * 2 * LANES, m / 4, 4 * h + i, last);
        return;
    }
    for (ptrdiff_t count = 1; m > last; m /= 4, h *= 4, count *= 4)
        FC(fft_forward_pass)(roots, z, m / 4, h, count);
}

static void FC(fft_inverse_node)(const real *roots, real *z, ptrdiff_t m, ptrdiff_t h, ptrdiff_t last) {
    if (m * 2 * FC_VECTOR_BYTES > FC_FFT_NEAR && m > 4 * last) {
        for (ptrdiff_t i = 0; i < 4; i++)
            FC(fft_inverse_node)(roots, z + i * (m / 4) * 2 * LANES, m / 4, 4 * h + i, last);
        FC(fft_inverse_pass)(roots, z, m / 4, h, 1);
        return;
    }
    ptrdiff_t count = m / (4 * last);
    for (ptrdiff_t quarter = last; count > 0; quarter *= 4, count /= 4)
        FC(fft_inverse_pass)(roots, z, quarter, h * count, count);
}

/* All of a block, but for the last pass where last is 4. */
static void FC(fft_forward_block)(const fc_fft *p, real *z, ptrdiff_t last) {
    const ptrdiff_t half = p->points / 2;
    if (p->log2_points % 2 == 0) {
        FC(fft_forward_node)(p->roots, z, p->points, 1, last);
        return;
    }
    FC(fft_forward_root)(p->roots, z, half);
    FC(fft_forward_node)(p->roots, z, half, 2, last);
    FC(fft_forward_node)(p->roots, z + half * 2 * LANES, half, 3, last);
}

static void FC(fft_inverse_block)(const fc_fft *p, real *z, ptrdiff_t last) {
    const ptrdiff_t half = p->points / 2;
    if (p->log2_points % 2 == 0) {
        FC(fft_inverse_node)(p->roots, z, p->points, 1, last);
        return;
    }
    FC(fft_inverse_node)(p->roots, z, half, 2, last);
    FC(fft_inverse_node)(p->roots, z + half * 2 * LANES, half, 3, last);
    FC(fft_inverse_root)(p->roots, z, half);
}

/* The twiddles of nodes h, h + step, ..., one a lane. */
FC_INLINE FC(complex) FC(fft_twiddles)(const real *roots, ptrdiff_t h, ptrdiff_t step) {
    real re[FC_VECTOR_BYTES / sizeof(real)], im[FC_VECTOR_BYTES / sizeof(real)];
    for (ptrdiff_t l = 0; l < LANES; l++, h += step)
        re[l] = roots[2 * h], im[l] = roots[2 * h + 1];
    return (FC(complex)){FC(load)(re), FC(load)(im)};
}

/* Nodes h, h + 1, ... of LANES points, one a lane, to the end of the tree. */
static void FC(fft_forward_leaves)(const real *roots, ptrdiff_t h, FC(complex) *a) {
    for (ptrdiff_t nodes = 1, half = LANES / 2; half > 0; nodes *= 2, half /= 2)
        for (ptrdiff_t node = 0; node < nodes; node++) {
            const FC(complex) c = FC(fft_twiddles)(roots, h * nodes + node, nodes);
            for (ptrdiff_t i = 2 * half * node; i < 2 * half * node + half; i++)
                FC(fft_split)(&a[i], &a[i + half], c);
        }
}

static void FC(fft_inverse_leaves)(const real *roots, ptrdiff_t h, FC(complex) *a) {
    for (ptrdiff_t nodes = LANES / 2, half = 1; nodes > 0; nodes /= 2, half *= 2)
        for (ptrdiff_t node = 0; node < nodes; node++) {
            const FC(complex) c = FC(fft_twiddles)(roots, h * nodes + node, nodes);
            for (ptrdiff_t i = 2 * half * node; i < 2 * half * node + half; i++)
                FC(fft_join)(&a[i], &a[i + half], c);
        }
}

/* The table of twiddles: c[h] for h = 2^l + j is exp(i pi / 2^(l+2)) times exp(i pi r), r the bits of j mirrored at the
 * binary point; `mirrored` holds the latter, products of at most log2(M) numbers in double. */
static void FC(fft_fill_roots)(const fc_fft *p, real *roots, double (*mirrored)[2]) {
    mirrored[0][0] = 1, mirrored[0][1] = 0;
    for (int level = 0; level < p->log2_points; level++) {
        const ptrdiff_t first = (ptrdiff_t)1 << level;
        const double re = fc_fft_roots[level + 2][0], im = fc_fft_roots[level + 2][1];
        for (ptrdiff_t j = 0; j < first; j++) {
            roots[2 * (first + j)] = (real)(mirrored[j][0] * re - mirrored[j][1] * im);
            roots[2 * (first + j) + 1] = (real)(mirrored[j][0] * im + mirrored[j][1] * re);
        }
        const double next_re = fc_fft_roots[level + 1][0], next_im = fc_fft_roots[level + 1][1];
        for (ptrdiff_t j = 0; j < first && level + 1 < p->log2_points; j++) {
            mirrored[first + j][0] = mirrored[j][0] * next_re - mirrored[j][1] * next_im;
            mirrored[first + j][1] = mirrored[j][0] * next_im + mirrored[j][1] * next_re;
        }
    }
}

/* ---- bringing blocks in and out */

/* Where the lanes of a batch begin in a tensor: `at`, the offset of a row, and `start`, the position in it that is the
 * block's first (it may lie before the row); rows have `n` positions, blocks `length`, the others are zero. */
typedef struct {
    ptrdiff_t at[FC_VECTOR_BYTES / sizeof(real)], start[FC_VECTOR_BYTES / sizeof(real)];
    ptrdiff_t count; /* lanes that are there */
    ptrdiff_t n, length, step, lowest, highest;
} FC(fft_lanes);

/* After at, start and count are set: what the quick way in needs. step: of the first positions, 0 where they differ. */
static void FC(fft_measure)(FC(fft_lanes) *lanes) {
    lanes->lowest = lanes->highest = lanes->start[0];
    lanes->step = lanes->count == LANES ? lanes->at[1] + lanes->start[1] - lanes->at[0] - lanes->start[0] : 0;
    for (ptrdiff_t l = 1; l < lanes->count; l++) {
        lanes->lowest = fc_min(lanes->lowest, lanes->start[l]);
        lanes->highest = fc_max(lanes->highest, lanes->start[l]);
        if (lanes->at[l] + lanes->start[l] - lanes->at[l - 1] - lanes->start[l - 1] != lanes->step)
            lanes->step = 0;
    }
}

/* `count` positions of every lane from `v` on, to rows `pitch` apart, zeros where there is nothing. */
static void FC(fft_stage)(const real *from, const FC(fft_lanes) *lanes, ptrdiff_t v, ptrdiff_t count, real *stage,
                          ptrdiff_t pitch) {
    for (ptrdiff_t l = 0; l < LANES; l++, stage += pitch) {
        ptrdiff_t first = 0, end = 0;
        if (l < lanes->count) {
            const ptrdiff_t at = lanes->start[l] + v;
            end = fc_clip(fc_min(lanes->n - at, lanes->length - v), 0, count);
            first = fc_clip(-at, 0, end);
            if (end > first)
                memcpy(stage + first, from + lanes->at[l] + at + first, (size_t)(end - first) * sizeof(real));
        }
        memset(stage, 0, (size_t)first * sizeof(real));
        memset(stage + end, 0, (size_t)(count - end) * sizeof(real));
    }
}

/* z[n] = block[n] + i block[n + M], a block a lane. */
static void FC(fft_gather)(const fc_fft *p, const real *from, const FC(fft_lanes) *lanes, real *z) {
    enum { PITCH = FC_FFT_CHUNK + FC_LINE / sizeof(real) }; /* not a power of two: rows in different sets */
    real stage[FC_VECTOR_BYTES / sizeof(real) * PITCH] __attribute__((aligned(64)));
    const ptrdiff_t M = p->points, chunk = fc_min(M, FC_FFT_CHUNK);
    for (ptrdiff_t v = 0; v < 2 * M; v += chunk) {
        real *to = z + (v < M ? v * 2 * LANES : (v - M) * 2 * LANES + LANES);
        const ptrdiff_t last = v + chunk;
        if (v >= lanes->length || lanes->highest + last <= 0 || lanes->lowest + v >= lanes->n) {
            for (ptrdiff_t j = 0; j < chunk; j++)
                FC(store)(to + j * 2 * LANES, (vec){0});
            continue;
        }
        const real *source = stage;
        ptrdiff_t step = PITCH;
        if (lanes->step && lanes->lowest + v >= 0 && lanes->highest + last <= lanes->n && last <= lanes->length) {
            source = from + lanes->at[0] + lanes->start[0] + v;
            step = lanes->step;
        } else
            FC(fft_stage)(from, lanes, v, chunk, stage, PITCH);
        for (ptrdiff_t j = 0; j < chunk; j += FC_TURN) {
            vec out[FC_TURN];
            FC(turn)(source + j, step, out);
            FC_UNROLL for (int i = 0; i < FC_TURN; i++) FC(store)(to + (j + i) * 2 * LANES, out[i]);
        }
    }
}

/* Where the outputs of a batch go: `count` of every lane to `at`. The bias of a lane: bias[bias_at], or for output i
 * bias[bias_at + i]. */
typedef struct {
    ptrdiff_t at[FC_VECTOR_BYTES / sizeof(real)], count[FC_VECTOR_BYTES / sizeof(real)];
    ptrdiff_t bias_at[FC_VECTOR_BYTES / sizeof(real)];
    const real *bias;
    int per_position;
} FC(fft_outputs);

/* `width` outputs of one lane, one by one, the first at z. */
static int FC(fft_store_few)(const real *z, ptrdiff_t apart, ptrdiff_t width, real scale, const real *bias,
                             ptrdiff_t bias_step, real *to) {
    int poisoned = 0;
    for (ptrdiff_t i = 0; i < width; i++, z += apart) {
        const real value = *z * scale;
        poisoned |= value - value != 0;
        to[i] = value + bias[i * bias_step];
    }
    return poisoned;
}

/* Where a lane's outputs go and its bias comes from; `move` is 0 for a lane that has none: its place is a dummy's. */
typedef struct {
    real *to;
    const real *bias;
    ptrdiff_t move;
} FC(fft_place);

/* A run of outputs of FC_TURN lanes, LANES at a time; returns how many it did. One sum of poison for each lane: in a
 * single one every addition would wait for the one before. */
FC_INLINE ptrdiff_t FC(fft_store_run)(const real *z, ptrdiff_t apart, ptrdiff_t run, real scale,
                                      const FC(fft_place) *places, const int per_position, vec *poison) {
    ptrdiff_t done = 0;
    vec added[FC_TURN], poisons[FC_TURN];
    FC_UNROLL for (int k = 0; k < FC_TURN; k++) {
        added[k] = FC(splat)(per_position ? 0 : *places[k].bias);
        poisons[k] = (vec){0};
    }
    for (; done + LANES <= run; done += LANES, z += LANES * apart) {
        vec row[FC_TURN];
        FC(turn)(z, apart, row);
        FC_UNROLL for (int k = 0; k < FC_TURN; k++) {
            const ptrdiff_t at = done & places[k].move;
            const vec value = row[k] * scale;
            poisons[k] += value * 0;
            FC(store)(places[k].to + at, value + (per_position ? FC(load)(places[k].bias + at) : added[k]));
        }
    }
    FC_UNROLL for (int k = 0; k < FC_TURN; k++)
        if (places[k].move)
            *poison += poisons[k];
    return done;
}

/* The outputs of a block to their places, scaled by 1 / M; returns whether one is not finite. */
static int FC(fft_scatter)(const fc_fft *p, const real *z, const FC(fft_outputs) *outputs, real *to) {
    real dummy[FC_VECTOR_BYTES / sizeof(real)];
    static const real zeros[FC_VECTOR_BYTES / sizeof(real)];
    const ptrdiff_t M = p->points, forth = p->reversed ? -1 : 1, apart = forth * 2 * LANES;
    const real scale = (real)1 / (real)M;
    const int per_position = outputs->bias && outputs->per_position;
    vec poison = {0};
    int poisoned = 0;
    for (ptrdiff_t c = 0; c < LANES; c += FC_TURN) {
        for (ptrdiff_t i = 0, run;; i += run) { /* as far as one half of the block goes, and every lane that goes on */
            const ptrdiff_t v = p->window + forth * i, half = v >= M, n = v - half * M;
            FC(fft_place) places[FC_TURN];
            int live = 0;
            run = forth > 0 ? M - n : n + 1;
            for (ptrdiff_t k = 0; k < FC_TURN; k++) {
                const ptrdiff_t left = outputs->count[c + k] - i;
                places[k] = (FC(fft_place)){dummy, zeros, 0};
                if (left <= 0)
                    continue;
                live = 1;
                run = fc_min(run, left);
                places[k].to = to + outputs->at[c + k] + i;
                places[k].move = -1;
                if (outputs->bias)
                    places[k].bias = outputs->bias + outputs->bias_at[c + k] + (per_position ? i : 0);
            }
            if (!live)
                break;
            const real *at = z + (n * 2 + half) * LANES + c;
            const ptrdiff_t done = per_position ? FC(fft_store_run)(at, apart, run, scale, places, 1, &poison)
                                                : FC(fft_store_run)(at, apart, run, scale, places, 0, &poison);
            for (ptrdiff_t k = 0; k < FC_TURN; k++)
                if (places[k].move)
                    poisoned |= FC(fft_store_few)(at + k + done * apart, apart, run - done, scale,
                                                  places[k].bias + (per_position ? done : 0), per_position,
                                                  places[k].to + done);
        }
    }
    for (ptrdiff_t l = 0; l < LANES; l++)
        poisoned |= poison[l] != 0;
    return poisoned;
}

/* ---- products of spectra */

/* Value f of a filter's spectrum: of a filter a lane, or of one of `wide` filters side by side for all lanes. */
FC_INLINE FC(complex) FC(fft_filter_value)(const int by_group, const real *w, ptrdiff_t f, ptrdiff_t wide) {
    if (by_group)
        return FC(load_complex)(w + f * 2 * LANES);
    w += f * 2 * wide;
    return (FC(complex)){FC(splat)(w[0]), FC(splat)(w[wide])};
}

FC_INLINE FC(complex) FC(fft_product)(const int conjugate, FC(complex) a, FC(complex) b) {
    return conjugate ? FC(complex_multiply_conjugate)(a, b) : FC(complex_multiply)(a, b);
}

/* One filter a channel: the last pass in, the product and the first pass out while four values are in registers. */
FC_INLINE void FC(fft_middle_of)(const int by_group, const int conjugate, const fc_fft *p, real *z, const real *w) {
    const real *roots = p->roots;
    const ptrdiff_t nodes = p->points / 4;
    for (ptrdiff_t h = nodes, f = 0; h < 2 * nodes; h++, f += 4, z += 8 * LANES) {
        const FC(complex) c = FC(splat_complex)(roots + 2 * h), d = FC(splat_complex)(roots + 4 * h);
        FC(complex) a[4];
        FC_UNROLL for (int i = 0; i < 4; i++) a[i] = FC(load_complex)(z + i * 2 * LANES);
        FC(fft_split_twice)(a, c, d);
        FC_UNROLL for (int i = 0; i < 4; i++)
            a[i] = FC(fft_product)(conjugate, a[i], FC(fft_filter_value)(by_group, w, f + i, 1));
        FC(fft_join_twice)(a, c, d);
        FC_UNROLL for (int i = 0; i < 4; i++) FC(store_complex)(z + i * 2 * LANES, a[i]);
    }
}

FC_NOINLINE void FC(fft_middle)(const fc_fft *p, real *z, const real *w) {
    switch (2 * p->by_group + p->conjugate) {
    case 0: FC(fft_middle_of)(0, 0, p, z, w); break;
    case 1: FC(fft_middle_of)(0, 1, p, z, w); break;
    case 2: FC(fft_middle_of)(1, 0, p, z, w); break;
    case 3: FC(fft_middle_of)(1, 1, p, z, w); break;
    }
}

/* Some in-channels' spectra and their filters, `w_step` apart. */
typedef struct {
    const real *x, *w;
    ptrdiff_t count, w_step, wide;
    int add, last;
} FC(fft_terms);

/* The sum over these in-channels of x times their filters, added to z where `add`; the first pass out where they are
 * the last. */
FC_INLINE void FC(fft_sum_of)(const int by_group, const int conjugate, const fc_fft *p, const FC(fft_terms) *terms,
                              real *z) {
    const real *roots = p->roots, *x = terms->x, *w = terms->w;
    const ptrdiff_t nodes = p->points / 4, count = terms->count, x_step = p->spectrum;
    const ptrdiff_t w_step = terms->w_step, wide = terms->wide;
    const int add = terms->add, last = terms->last;
    for (ptrdiff_t h = nodes, f = 0; h < 2 * nodes; h++, f += 4, x += 8 * LANES, z += 8 * LANES) {
        FC(complex) sum[4];
        FC_UNROLL for (int i = 0; i < 4; i++)
            sum[i] = add ? FC(load_complex)(z + i * 2 * LANES) : (FC(complex)){(vec){0}, (vec){0}};
        const real *from = x, *filter = w;
        for (ptrdiff_t c = 0; c < count; c++, from += x_step, filter += w_step) {
            FC_UNROLL for (int i = 0; i < 4; i++) {
                const FC(complex) a = FC(load_complex)(from + i * 2 * LANES);
                const FC(complex) b = FC(fft_filter_value)(by_group, filter, f + i, wide);
                if (conjugate) {
                    sum[i].re += a.re * b.re, sum[i].re += a.im * b.im;
                    sum[i].im += a.im * b.re, sum[i].im -= a.re * b.im;
                } else {
                    sum[i].re += a.re * b.re, sum[i].re -= a.im * b.im;
                    sum[i].im += a.im * b.re, sum[i].im += a.re * b.im;
                }
            }
        }
        if (last)
            FC(fft_join_twice)(sum, FC(splat_complex)(roots + 2 * h), FC(splat_complex)(roots + 4 * h));
        FC_UNROLL for (int i = 0; i < 4; i++) FC(store_complex)(z + i * 2 * LANES, sum[i]);
    }
}

FC_NOINLINE void FC(fft_sum)(const fc_fft *p, const FC(fft_terms) *terms, real *z) {
    switch (2 * p->by_group + p->conjugate) {
    case 0: FC(fft_sum_of)(0, 0, p, terms, z); break;
    case 1: FC(fft_sum_of)(0, 1, p, terms, z); break;
    case 2: FC(fft_sum_of)(1, 0, p, terms, z); break;
    case 3: FC(fft_sum_of)(1, 1, p, terms, z); break;
    }
}

/* sum (+)= x conj(y) */
FC_NOINLINE void FC(fft_accumulate)(const real *x, const real *y, ptrdiff_t points, real *sum, int add) {
    for (ptrdiff_t f = 0; f < points; f++, x += 2 * LANES, y += 2 * LANES, sum += 2 * LANES) {
        const FC(complex) product = FC(complex_multiply_conjugate)(FC(load_complex)(x), FC(load_complex)(y));
        FC(store_complex)(sum, add ? FC(complex_add)(FC(load_complex)(sum), product) : product);
    }
}

/* What lies `apart` in `to` (+)= the sums of all lanes of `from`. */
FC_NOINLINE void FC(fft_fold_lanes)(const real *from, ptrdiff_t points, real *to, ptrdiff_t apart, int add) {
    for (ptrdiff_t v = 0; v < 2 * points; v += LANES, from += LANES * LANES) {
        const vec sums = FC(sum_each)(from);
        if (apart == 1) {
            FC(store)(to + v, add ? FC(load)(to + v) + sums : sums);
            continue;
        }
        for (ptrdiff_t l = 0; l < LANES; l++) {
            real *place = to + (v + l) * apart;
            *place = add ? *place + sums[l] : sums[l];
        }
    }
}

/* ---- where things lie */

/* Batch `batch` of the rows of a tensor with `channels` channels a group and `n` positions a row, in the first of these
 * channels; start: where its piece begins. */
static FC(fft_lanes) FC(fft_lay)(const fc_fft *p, ptrdiff_t batch, ptrdiff_t which, ptrdiff_t channels, ptrdiff_t n) {
    FC(fft_lanes) lanes;
    lanes.count = fc_min(LANES, p->by_group ? p->groups - which * LANES : p->total - batch * LANES);
    lanes.n = n;
    for (ptrdiff_t l = 0; l < lanes.count; l++) {
        const ptrdiff_t group = p->by_group ? which * LANES + l : which, t = p->by_group ? batch : batch * LANES + l;
        const ptrdiff_t signal = t / p->blocks, image = signal / p->rows, row = signal % p->rows;
        lanes.at[l] = ((image * p->groups + group) * channels * p->rows + row) * n;
        lanes.start[l] = t % p->blocks * p->step;
    }
    return lanes;
}

/* The blocks that overlap. */
static FC(fft_lanes) FC(fft_lay_blocks)(const fc_fft *p, ptrdiff_t batch, ptrdiff_t which) {
    FC(fft_lanes) lanes = FC(fft_lay)(p, batch, which, p->in, p->from_n);
    lanes.length = 2 * p->points;
    for (ptrdiff_t l = 0; l < lanes.count; l++)
        lanes.start[l] -= p->lead;
    FC(fft_measure)(&lanes);
    return lanes;
}

/* The filters of out-channels (or, by_group, groups) side by side; `distance` apart in w. */
static FC(fft_lanes) FC(fft_lay_filters)(const fc_fft *p, ptrdiff_t first, ptrdiff_t count, ptrdiff_t distance) {
    FC(fft_lanes) lanes = {.count = count, .n = p->taps, .length = p->taps};
    for (ptrdiff_t l = 0; l < count; l++) {
        lanes.at[l] = first + l * distance;
        lanes.start[l] = 0;
    }
    FC(fft_measure)(&lanes);
    return lanes;
}

/* Filters or sums: those of block `block` of the out-channels of `which`, in-channel c, as rows of w. */
static FC(fft_lanes) FC(fft_lay_part)(const fc_fft *p, ptrdiff_t which, ptrdiff_t block, ptrdiff_t c) {
    if (p->by_group)
        return FC(fft_lay_filters)(p, which * LANES * p->w_group + block * p->w_out + c * p->w_in,
                                   fc_min(LANES, p->groups - which * LANES), p->w_group);
    return FC(fft_lay_filters)(p, which * p->w_group + block * LANES * p->w_out + c * p->w_in,
                               fc_min(LANES, p->out - block * LANES), p->w_out);
}

static const real *FC(fft_from)(const fc_fft *p) { return p->swapped ? p->call->y : p->call->x; }
static real *FC(fft_other)(const fc_fft *p) { return p->swapped ? p->call->x : p->call->y; }

/* ---- single filters, where those of a block would leave most lanes empty: each lane takes every LANES-th tap
 *
 * A polynomial is the sum over lanes l of x^l times lane l's at x^LANES, so the transforms of the lanes have the
 * twiddles of the first levels, and what is left of the tree is a node of LANES points, the lanes, under each value. */

/* The transform of one lane. */
static fc_fft FC(fft_of_lanes)(const fc_fft *p) {
    fc_fft lanes = *p;
    lanes.points /= LANES;
    for (ptrdiff_t l = LANES; l > 1; l /= 2)
        lanes.log2_points--;
    return lanes;
}

/* The spectrum of the filter at w, its values `wide` apart in `to`. */
static void FC(fft_filter_alone)(const fc_fft *p, const real *w, real *z, real *to, ptrdiff_t wide) {
    const fc_fft lanes = FC(fft_of_lanes)(p);
    for (ptrdiff_t v = 0; v < 2 * p->points; v += LANES) {
        const ptrdiff_t half = v >= p->points, n = (v - half * p->points) / LANES;
        FC(store)(z + (2 * n + half) * LANES, FC(load_lanes)(w + v, FC(inside)(v, p->taps)));
    }
    FC(fft_forward_block)(&lanes, z, 1);
    for (ptrdiff_t h = lanes.points; h < 2 * lanes.points; h += LANES, z += 2 * LANES * LANES) {
        FC(complex) a[FC_VECTOR_BYTES / sizeof(real)];
        for (ptrdiff_t l = 0; l < LANES; l += FC_TURN) {
            vec re[FC_TURN], im[FC_TURN];
            FC(turn)(z + l, 2 * LANES, re);
            FC(turn)(z + l + LANES, 2 * LANES, im);
            FC_UNROLL for (int i = 0; i < FC_TURN; i++) a[l + i] = (FC(complex)){re[i], im[i]};
        }
        FC(fft_forward_leaves)(p->roots, h, a);
        for (ptrdiff_t i = 0; i < LANES; i++)
            for (ptrdiff_t l = 0; l < LANES; l++, to += 2 * wide) {
                to[0] = a[l].re[i];
                to[wide] = a[l].im[i];
            }
    }
}

/* LANES rows of LANES from vectors, i of each being row i's. */
static void FC(fft_store_rows)(const vec *columns, real *to, ptrdiff_t step) {
    real tile[FC_VECTOR_BYTES * FC_VECTOR_BYTES / sizeof(real) / sizeof(real)];
    for (ptrdiff_t l = 0; l < LANES; l++)
        FC(store)(tile + l * LANES, columns[l]);
    for (ptrdiff_t i = 0; i < LANES; i += FC_TURN) {
        vec rows[FC_TURN];
        FC(turn)(tile + i, LANES, rows);
        FC_UNROLL for (int k = 0; k < FC_TURN; k++) FC(store)(to + (i + k) * step, rows[k]);
    }
}

/* The filter at w from its spectrum; returns whether a tap is not finite. */
static int FC(fft_filter_alone_back)(const fc_fft *p, const real *from, real *space, real *w) {
    const fc_fft lanes = FC(fft_of_lanes)(p);
    const ptrdiff_t M = p->points;
    real *z = space;
    for (ptrdiff_t h = lanes.points; h < 2 * lanes.points; h += LANES, from += 2 * LANES * LANES) {
        FC(complex) a[FC_VECTOR_BYTES / sizeof(real)];
        vec re[FC_VECTOR_BYTES / sizeof(real)], im[FC_VECTOR_BYTES / sizeof(real)];
        for (ptrdiff_t l = 0; l < LANES; l += FC_TURN / 2) {
            vec out[FC_TURN];
            FC(turn)(from + 2 * l, 2 * LANES, out);
            FC_UNROLL for (int i = 0; i < FC_TURN / 2; i++) a[l + i] = (FC(complex)){out[2 * i], out[2 * i + 1]};
        }
        FC(fft_inverse_leaves)(p->roots, h, a);
        for (ptrdiff_t l = 0; l < LANES; l++)
            re[l] = a[l].re, im[l] = a[l].im;
        FC(fft_store_rows)(re, z, 2 * LANES);
        FC(fft_store_rows)(im, z + LANES, 2 * LANES);
        z += 2 * LANES * LANES;
    }
    FC(fft_inverse_block)(&lanes, space, 1);
    const real scale = (real)1 / (real)M;
    vec poison = {0};
    for (ptrdiff_t v = 0; v < p->taps; v += LANES) {
        const ptrdiff_t half = v >= M, n = (v - half * M) / LANES;
        const vec taps = FC(load)(space + (2 * n + half) * LANES) * scale;
        const FC(lanes) here = FC(inside)(v, p->taps);
        poison += taps * 0;
        if (!p->reversed)
            FC(store_lanes)(w + v, taps, here);
        for (ptrdiff_t l = 0; p->reversed && l < fc_min(LANES, p->taps - v); l++)
            w[p->window - v - l] = taps[l];
    }
    int poisoned = 0;
    for (ptrdiff_t l = 0; l < LANES; l++)
        poisoned |= poison[l] != 0;
    return poisoned;
}

/* ---- forward, backward_input */

/* The spectra of one block of filters into `to`. */
static void FC(fft_filter)(const fc_fft *p, ptrdiff_t which, ptrdiff_t block, ptrdiff_t c, real *to) {
    const FC(fft_lanes) lanes = FC(fft_lay_part)(p, which, block, c);
    FC(fft_gather)(p, p->call->w, &lanes, to);
    FC(fft_forward_block)(p, to, 1);
}

/* From one in-channel to the next in the spectra of block `block`. */
static ptrdiff_t FC(fft_wide)(const fc_fft *p, ptrdiff_t block) { return fc_min(LANES, p->out - block * LANES); }
static ptrdiff_t FC(fft_filter_step)(const fc_fft *p, ptrdiff_t wide) { return 2 * p->points * wide + 2 * LANES; }

/* Filters for all lanes: one block of out-channels, one in-channel; no lane of the block stays empty. */
static void FC(fft_filter_item)(void *context, ptrdiff_t i, int number) {
    const fc_fft *p = context;
    const ptrdiff_t c = i % p->in, block = i / p->in % p->out_blocks, group = i / p->in / p->out_blocks;
    const ptrdiff_t wide = FC(fft_wide)(p, block);
    real *to = (real *)p->filters + group * p->filters_n + block * p->in * p->spectrum;
    to += c * FC(fft_filter_step)(p, wide);
    if (wide == LANES) {
        FC(fft_filter)(p, group, block, c, to);
        return;
    }
    real *z = fc_fft_space(p, number).block;
    if (fc_fft_alone(p, LANES, wide)) {
        const real *w = (const real *)p->call->w + group * p->w_group + block * LANES * p->w_out + c * p->w_in;
        for (ptrdiff_t l = 0; l < wide; l++)
            FC(fft_filter_alone)(p, w + l * p->w_out, z, to + l, wide);
        return;
    }
    FC(fft_filter)(p, group, block, c, z);
    for (ptrdiff_t v = 0; v < 2 * p->points; v++, z += LANES, to += wide)
        for (ptrdiff_t l = 0; l < wide; l++)
            to[l] = z[l];
}

/* Where the outputs of a batch lie, in the first out-channel. */
static FC(fft_outputs) FC(fft_lay_outputs)(const fc_fft *p, ptrdiff_t batch, ptrdiff_t which) {
    const ptrdiff_t plane = p->rows * p->other_n, image = p->groups * p->out * plane;
    const FC(fft_lanes) lanes = FC(fft_lay)(p, batch, which, p->out, p->other_n);
    FC(fft_outputs) outputs = {.per_position = p->call->bias_per_position};
    for (ptrdiff_t l = 0; l < lanes.count; l++) {
        outputs.at[l] = lanes.at[l] + lanes.start[l];
        outputs.count[l] = fc_min(p->step, p->other_n - lanes.start[l]);
        outputs.bias_at[l] = outputs.per_position ? outputs.at[l] % image : lanes.at[l] % image / plane;
    }
    return outputs;
}

/* The filters of out-channel k for in-channel c on. */
static FC(fft_terms) FC(fft_terms_of)(const fc_fft *p, const real *filters, ptrdiff_t k, ptrdiff_t c) {
    FC(fft_terms) terms = {.w_step = p->spectrum, .wide = LANES};
    if (p->by_group)
        terms.w = filters + k * p->in * p->spectrum;
    else {
        const ptrdiff_t block = k / LANES;
        terms.wide = FC(fft_wide)(p, block);
        terms.w_step = FC(fft_filter_step)(p, terms.wide);
        terms.w = filters + block * p->in * p->spectrum + k % LANES;
    }
    terms.w += c * terms.w_step;
    return terms;
}

/* From spectrum to outputs: out-channel k of a batch. */
static void FC(fft_finish)(const fc_fft *p, real *z, FC(fft_outputs) *outputs, ptrdiff_t k,
                           const fc_fft_worker *space) {
    const fc_call *call = p->call;
    const ptrdiff_t plane = p->rows * p->other_n;
    outputs->bias = call->bias ? (const real *)call->bias + k * (outputs->per_position ? plane : 1) : NULL;
    FC(fft_inverse_block)(p, z, 4);
    *space->poisoned |= FC(fft_scatter)(p, z, outputs, FC(fft_other)(p) + k * plane);
}

/* The outputs of one batch: out-channels first .. end. `filters`: those of the group, or of the lanes' groups. */
static void FC(fft_convolve)(const fc_fft *p, ptrdiff_t batch, ptrdiff_t which, ptrdiff_t first, ptrdiff_t end,
                             const real *filters, const fc_fft_worker *space) {
    const real *from = FC(fft_from)(p);
    real *z = space->block, *x = space->held;
    const FC(fft_lanes) blocks = FC(fft_lay_blocks)(p, batch, which);
    FC(fft_outputs) outputs = FC(fft_lay_outputs)(p, batch, which);
    if (p->in == 1 && p->out == 1) {
        FC(fft_gather)(p, from, &blocks, z);
        FC(fft_forward_block)(p, z, 4);
        FC(fft_middle)(p, z, filters);
        FC(fft_finish)(p, z, &outputs, 0, space);
        return;
    }
    for (ptrdiff_t c0 = 0, c1; c0 < p->in; c0 = c1) {
        c1 = fc_min(c0 + p->chunk, p->in);
        for (ptrdiff_t c = c0; c < c1; c++) {
            real *to = x + (c - c0) * p->spectrum;
            FC(fft_gather)(p, from + c * p->rows * p->from_n, &blocks, to);
            FC(fft_forward_block)(p, to, 1);
        }
        for (ptrdiff_t k = first; k < end; k++) {
            real *sum = p->chunk < p->in ? z + k * p->spectrum : z;
            FC(fft_terms) terms = FC(fft_terms_of)(p, filters, k, c0);
            terms.x = x, terms.count = c1 - c0, terms.add = c0 > 0, terms.last = c1 == p->in;
            FC(fft_sum)(p, &terms, sum);
            if (terms.last)
                FC(fft_finish)(p, sum, &outputs, k, space);
        }
    }
}

static void FC(fft_convolve_item)(void *context, ptrdiff_t i, int number) {
    const fc_fft *p = context;
    const fc_fft_worker space = fc_fft_space(p, number);
    const ptrdiff_t part = i % p->parts, batch = i / p->parts % p->batches, group = i / p->parts / p->batches;
    FC(fft_convolve)(p, batch, group, fc_part(p->out, p->parts, part), fc_part(p->out, p->parts, part + 1),
                     (const real *)p->filters + group * p->filters_n, &space);
}

/* LANES groups: their filters, then a run of blocks. */
static void FC(fft_groups_item)(void *context, ptrdiff_t i, int number) {
    const fc_fft *p = context;
    const fc_fft_worker space = fc_fft_space(p, number);
    const ptrdiff_t run = i % p->runs, which = i / p->runs;
    for (ptrdiff_t k = 0; k < p->out; k++)
        for (ptrdiff_t c = 0; c < p->in; c++)
            FC(fft_filter)(p, which, k, c, (real *)space.filters + (k * p->in + c) * p->spectrum);
    for (ptrdiff_t b = fc_part(p->batches, p->runs, run); b < fc_part(p->batches, p->runs, run + 1); b++)
        FC(fft_convolve)(p, b, which, 0, p->out, space.filters, &space);
}

/* ---- backward_weight */

static real *FC(fft_sums)(const fc_fft *p, ptrdiff_t run, ptrdiff_t which, ptrdiff_t block, ptrdiff_t c) {
    return (real *)p->filters + (run * p->group_batches + which) * p->filters_n + (block * p->in + c) * p->spectrum;
}

static FC(fft_lanes) FC(fft_lay_pieces)(const fc_fft *p, ptrdiff_t batch, ptrdiff_t which) {
    FC(fft_lanes) lanes = FC(fft_lay)(p, batch, which, p->out, p->other_n);
    lanes.length = p->step;
    FC(fft_measure)(&lanes);
    return lanes;
}

/* A run of batches under some out-channels: their products, added up in the lanes of the sums. */
static void FC(fft_weight_item)(void *context, ptrdiff_t i, int number) {
    const fc_fft *p = context;
    const fc_fft_worker space = fc_fft_space(p, number);
    const ptrdiff_t part = i % p->parts, run = i / p->parts % p->runs, which = i / p->parts / p->runs;
    const ptrdiff_t first = fc_part(p->batches, p->runs, run), end = fc_part(p->batches, p->runs, run + 1);
    const real *from = FC(fft_from)(p), *other = FC(fft_other)(p);
    real *x = space.held, *z = space.block, *sums = space.filters;
    for (ptrdiff_t b = first; b < end; b += p->hold) {
        const ptrdiff_t held = fc_min(p->hold, end - b);
        for (ptrdiff_t j = 0; j < held; j++) {
            const FC(fft_lanes) blocks = FC(fft_lay_blocks)(p, b + j, which);
            for (ptrdiff_t c = 0; c < p->in; c++) {
                real *to = x + (j * p->in + c) * p->spectrum;
                FC(fft_gather)(p, from + c * p->rows * p->from_n, &blocks, to);
                FC(fft_forward_block)(p, to, 1);
            }
        }
        for (ptrdiff_t k = fc_part(p->out, p->parts, part); k < fc_part(p->out, p->parts, part + 1); k++) {
            for (ptrdiff_t j = 0; j < held; j++) {
                const FC(fft_lanes) pieces = FC(fft_lay_pieces)(p, b + j, which);
                FC(fft_gather)(p, other + k * p->rows * p->other_n, &pieces, z);
                FC(fft_forward_block)(p, z, 1);
                for (ptrdiff_t c = 0; c < p->in; c++) {
                    real *sum = p->by_group ? FC(fft_sums)(p, run, which, k, c) : sums + c * p->spectrum;
                    const int add = p->by_group ? b > first : j > 0; /* the groups' batches are held one at a time */
                    FC(fft_accumulate)(x + (j * p->in + c) * p->spectrum, z, p->points, sum, add);
                }
            }
            for (ptrdiff_t c = 0; !p->by_group && c < p->in; c++) {
                const int alone = fc_fft_alone(p, LANES, FC(fft_wide)(p, k / LANES));
                real *to = FC(fft_sums)(p, run, which, k / LANES, c) + k % LANES * (alone ? 2 * p->points : 1);
                FC(fft_fold_lanes)(sums + c * p->spectrum, p->points, to, alone ? 1 : LANES, b > first);
            }
        }
    }
}

/* One block of filters: the runs together, and back. */
static void FC(fft_weight_finish)(void *context, ptrdiff_t i, int number) {
    const fc_fft *p = context;
    const ptrdiff_t c = i % p->in, block = i / p->in % p->out_blocks, which = i / p->in / p->out_blocks;
    const FC(fft_lanes) lanes = FC(fft_lay_part)(p, which, block, c);
    const fc_fft_worker space = fc_fft_space(p, number);
    const int alone = !p->by_group && fc_fft_alone(p, LANES, lanes.count);
    real *z = FC(fft_sums)(p, 0, which, block, c);
    for (ptrdiff_t run = 1; run < p->runs; run++) {
        const real *more = FC(fft_sums)(p, run, which, block, c);
        for (ptrdiff_t v = 0; v < 2 * p->points * (alone ? lanes.count : LANES); v += LANES)
            FC(store)(z + v, FC(load)(z + v) + FC(load)(more + v));
    }
    real *w = p->call->w;
    if (alone) {
        for (ptrdiff_t l = 0; l < lanes.count; l++, z += 2 * p->points)
            *space.poisoned |= FC(fft_filter_alone_back)(p, z, space.block, w + lanes.at[l]);
        return;
    }
    FC(fft_outputs) outputs = {0};
    for (ptrdiff_t l = 0; l < lanes.count; l++) {
        outputs.at[l] = lanes.at[l];
        outputs.count[l] = p->taps;
    }
    FC(fft_inverse_block)(p, z, 1);
    *space.poisoned |= FC(fft_scatter)(p, z, &outputs, w);
}

/* ---- run */

/* Returns whether all outputs are finite. */
static int FC(fft_run)(const fc_call *call, fc_operation operation) {
    const int threads = fc_worthwhile_threads(&call->geometry, call->threads), keep = call->keep_denormals;
    double cycles;
    fc_fft p = fc_fft_plan(&call->geometry, operation, threads, LANES, sizeof(real), &cycles);
    p.call = call;
    p.roots = call->workspace;
    p.filters = (char *)p.roots + p.roots_bytes;
    p.workers = (char *)p.filters + p.filters_bytes;
    FC(fft_fill_roots)(&p, p.roots, (double(*)[2])p.workers);
    for (int i = 0; i < threads; i++)
        *fc_fft_space(&p, i).poisoned = 0;
    const ptrdiff_t spectra = p.group_batches * p.out_blocks * p.in;
    if (p.weight) {
        fc_parallel(threads, p.group_batches * p.runs * p.parts, keep, FC(fft_weight_item), &p);
        fc_parallel(threads, spectra, keep, FC(fft_weight_finish), &p);
    } else if (p.by_group) {
        fc_parallel(threads, p.group_batches * p.runs, keep, FC(fft_groups_item), &p);
    } else {
        fc_parallel(threads, spectra, keep, FC(fft_filter_item), &p);
        fc_parallel(threads, p.group_batches * p.batches * p.parts, keep, FC(fft_convolve_item), &p);
    }
    int poisoned = 0;
    for (int i = 0; i < threads; i++)
        poisoned |= *fc_fft_space(&p, i).poisoned;
    return !poisoned;
}

static size_t FC(fft_workspace)(const fc_geometry *g, fc_operation operation, int threads, size_t direct) {
    threads = fc_worthwhile_threads(g, threads);
    double cycles;
    const fc_fft p = fc_fft_plan(g, operation, threads, LANES, sizeof(real), &cycles);
    const size_t bytes = fc_fft_bytes(&p, threads);
    return bytes > direct ? bytes : direct;
}

static size_t FC(fft_forward_workspace)(const fc_geometry *g, int threads) {
    return FC(fft_workspace)(g, FC_FORWARD, threads, FC(direct_forward_workspace)(g, threads));
}

static size_t FC(fft_backward_input_workspace)(const fc_geometry *g, int threads) {
    return FC(fft_workspace)(g, FC_BACKWARD_INPUT, threads, FC(direct_backward_input_workspace)(g, threads));
}

static size_t FC(fft_backward_weight_workspace)(const fc_geometry *g, int threads) {
    return FC(fft_workspace)(g, FC_BACKWARD_WEIGHT, threads, FC(direct_backward_weight_workspace)(g, threads));
}

static void FC(fft_forward)(const fc_call *call) {
    if (!FC(fft_run)(call, FC_FORWARD))
        FC(direct_forward)(call);
}

static void FC(fft_backward_input)(const fc_call *call) {
    if (!FC(fft_run)(call, FC_BACKWARD_INPUT))
        FC(direct_backward_input)(call);
}

static void FC(fft_backward_weight)(const fc_call *call) {
    if (!FC(fft_run)(call, FC_BACKWARD_WEIGHT))
        FC(direct_backward_weight)(call);
}

/* ---- when */

/* Direct summation at its best takes LANES products from each of two units a cycle. Where the plan counts FC_FFT_MARGIN
 * times fewer cycles, FFT was the faster one or level on a grid of layers (1 to 512 channels, 17 to 8191 taps, 200 to
 * 160000 positions, batches of 1 to 32; float32, Zen 3 with AVX2): from 63 taps on in one channel or depthwise (1.2 to
 * 2 times as fast, 2.5 times at 127, 3.3 times at 255), from 17 on between 8 or more channels. */
static const char *FC(fft_unwise)(const fc_geometry *g, fc_operation operation, int threads) {
    if (g->S < FC_FFT_TAPS)
        return "fewer than 16 taps";
    const double products = fc_multiply_adds(g);
    if (products < FC_FFT_PRODUCTS) /* 5 us at most: planning takes 1 */
        return "too little work to make up for the transforms";
    threads = fc_worthwhile_threads(g, threads);
    double cycles;
    const fc_fft p = fc_fft_plan(g, operation, threads, LANES, sizeof(real), &cycles);
    if (fc_fft_bytes(&p, threads) > FC_FFT_BYTES)
        return "would take more than 512 MB of workspace";
    const double direct = products / (double)(2 * LANES * threads);
    if (FC_FFT_MARGIN * cycles > direct)
        return "more work than direct summation, as taps, channels and positions go";
    return NULL;
}

static const char *FC(fft_unwise_forward)(const fc_geometry *g, int threads) {
    return FC(fft_unwise)(g, FC_FORWARD, threads);
}
static const char *FC(fft_unwise_backward_input)(const fc_geometry *g, int threads) {
    return FC(fft_unwise)(g, FC_BACKWARD_INPUT, threads);
}
static const char *FC(fft_unwise_backward_weight)(const fc_geometry *g, int threads) {
    return FC(fft_unwise)(g, FC_BACKWARD_WEIGHT, threads);
}
