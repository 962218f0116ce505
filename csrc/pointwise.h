/* pointwise: 1x1 kernels of stride 1 with few channels on one side, such as the last layer of a U-Net; nothing packed.
 *
 * With `few` planes on one side and `many` on the other, each pixel of the many enters no more than `few` products: the
 * layer is the reading of those planes, and all three operations read them once, where they are.
 *
 *     sums (forward to few, backward_input to few)   few[f][p]  = sum over m of a[f,m] many[m][p]
 *     dots (backward_weight)                         a[f,m]     = sum over n, p of few[f][p] many[m][p]
 *
 * sums: a block of columns of the few planes stays in level 1, and FC_POINTWISE_PLANES of the many planes at a time are
 * added to it, each read in runs of some KB. All of them at once, a vector of each, would be as many pages at a time,
 * which neither the TLB nor the prefetchers follow. dots: the same block meets one of the many planes after the other.
 *
 * Against gemm and direct, which pack what they read (Zen 3, 64 channels): forward to 2 channels 2.8 times as fast, to
 * 8 1.6 times; weights 2.3 times for 2, 1.3 for 4.
 *
 * An item is an image, a group and a block of columns (sums), or a group and some of the many planes (dots). No
 * workspace. */

#ifndef FC_POINTWISE
#define FC_POINTWISE
enum {
    FC_POINTWISE_FEW = 4,     /* planes of a tile */
    FC_POINTWISE_VECTORS = 3, /* columns of a tile: with 4 planes, sums for all of 16 registers but four */
    /* summed by themselves first, so that long sums keep their accuracy; 16 planes of 2^n columns share cache sets */
    FC_POINTWISE_PLANES = 8,
    FC_POINTWISE_BYTES = 4 << 10, /* of a block of columns of a plane, or up to 4 times as much where they are few */
    FC_POINTWISE_LEAST = 8,       /* of the many */
    FC_POINTWISE_SUMS = 16        /* of the few up to which sums are faster than gemm's: 2.8 times for 2, 1.2 for 16 */
};

static const char *pointwise_unsupported(const fc_geometry *g) {
    /* sizes too: padding before may be made up for by cropping after */
    if (!fc_pointwise(g) || g->stride_h != 1 || g->stride_w != 1 || g->P != g->H || g->Q != g->W)
        return "a kernel other than 1x1, a stride or padding";
    return NULL;
}

static const char *pointwise_unwise(const fc_geometry *g, ptrdiff_t few, ptrdiff_t many, ptrdiff_t most,
                                    ptrdiff_t vectors) {
    if (few > most)
        return "so many channels on either side that a matrix product is worth its packing";
    if (many < FC_POINTWISE_LEAST)
        return "few channels on both sides";
    if (g->H * g->W * (ptrdiff_t)sizeof(float) < vectors * FC_VECTOR_BYTES)
        return "planes of few vectors";
    return NULL;
}

static const char *pointwise_unwise_forward(const fc_geometry *g, int threads) {
    (void)threads;
    return pointwise_unwise(g, g->K / g->groups, g->C / g->groups, FC_POINTWISE_SUMS, 4);
}

static const char *pointwise_unwise_backward_input(const fc_geometry *g, int threads) {
    (void)threads;
    return pointwise_unwise(g, g->C / g->groups, g->K / g->groups, FC_POINTWISE_SUMS, 4);
}

static const char *pointwise_unwise_backward_weight(const fc_geometry *g, int threads) {
    const ptrdiff_t out = g->K / g->groups, in = g->C / g->groups, many = fc_max(in, out);
    const ptrdiff_t each = many / fc_worthwhile_threads(g, threads); /* of a thread */
    return pointwise_unwise(g, fc_min(in, out), each, FC_POINTWISE_FEW, 8);
}
#endif

typedef struct {
    const fc_call *call;
    ptrdiff_t few, many, pixels, groups, block, blocks; /* channels a group, of a plane; columns of a block */
    const real *from, *a; /* the many planes (dots: `with`, the few); a[f,m] is a[f * a_few + m * a_many] */
    const real *with;
    real *to;
    ptrdiff_t a_few, a_many, parts;
} FC(pointwise);

/* ---- sums */

/* The sum of `planes` planes times their factors, added to CB planes of `cols` columns; both `pixels` apart. */
FC_INLINE void FC(pointwise_add)(const int CB, const FC(pointwise) *d, const real *from, ptrdiff_t planes,
                                 const real *a, ptrdiff_t cols, int fresh, real *to) {
    enum { VB = FC_POINTWISE_VECTORS, TILE = FC_POINTWISE_VECTORS * FC_VECTOR_BYTES / sizeof(real) };
    const ptrdiff_t pixels = d->pixels, a_few = d->a_few, a_many = d->a_many;
    ptrdiff_t j = 0;
    for (; j + TILE <= cols; j += TILE) {
        vec sum[FC_POINTWISE_FEW * FC_POINTWISE_VECTORS];
        FC_UNROLL for (int i = 0; i < CB * VB; i++) sum[i] = (vec){0};
        const real *x = from + j, *factor = a;
        FC_ROLLED for (ptrdiff_t m = 0; m < planes; m++, x += pixels, factor += a_many) {
            vec column[FC_POINTWISE_VECTORS];
            FC_UNROLL for (int v = 0; v < VB; v++) column[v] = FC(load)(x + v * LANES);
            FC_UNROLL for (int f = 0; f < CB; f++) {
                const vec each = FC(splat)(factor[f * a_few]);
                FC_UNROLL for (int v = 0; v < VB; v++) sum[f * VB + v] += each * column[v];
            }
        }
        FC_UNROLL for (int f = 0; f < CB; f++)
            FC_UNROLL for (int v = 0; v < VB; v++) {
                real *at = to + f * pixels + j + v * LANES;
                FC(store)(at, fresh ? sum[f * VB + v] : sum[f * VB + v] + FC(load)(at));
            }
    }
    for (; j < cols; j += LANES) {
        const FC(lanes) part = FC(between)(0, fc_min(cols - j, (ptrdiff_t)LANES));
        vec sum[FC_POINTWISE_FEW];
        FC_UNROLL for (int f = 0; f < CB; f++) sum[f] = (vec){0};
        const real *x = from + j, *factor = a;
        FC_ROLLED for (ptrdiff_t m = 0; m < planes; m++, x += pixels, factor += a_many) {
            const vec column = FC(load_lanes)(x, part);
            FC_UNROLL for (int f = 0; f < CB; f++) sum[f] += FC(splat)(factor[f * a_few]) * column;
        }
        FC_UNROLL for (int f = 0; f < CB; f++) {
            real *at = to + f * pixels + j;
            FC(store_lanes)(at, fresh ? sum[f] : sum[f] + FC(load_lanes)(at, part), part);
        }
    }
}

FC_NOINLINE void FC(pointwise_adds)(ptrdiff_t few, const FC(pointwise) *d, const real *from, ptrdiff_t planes,
                                    const real *a, ptrdiff_t cols, int fresh, real *to) {
    switch (few) {
    case 1: FC(pointwise_add)(1, d, from, planes, a, cols, fresh, to); break;
    case 2: FC(pointwise_add)(2, d, from, planes, a, cols, fresh, to); break;
    case 3: FC(pointwise_add)(3, d, from, planes, a, cols, fresh, to); break;
    case 4: FC(pointwise_add)(4, d, from, planes, a, cols, fresh, to); break;
    }
}

static void FC(pointwise_bias)(const real *bias, int each, ptrdiff_t cols, real *to) {
    for (ptrdiff_t j = 0; j < cols; j++)
        to[j] += each ? bias[j] : *bias;
}

static void FC(pointwise_sums_item)(void *context, ptrdiff_t i, int number) {
    (void)number;
    const FC(pointwise) *d = context;
    const ptrdiff_t block = i % d->blocks, image = i / d->blocks / d->groups, group = i / d->blocks % d->groups;
    const ptrdiff_t j0 = block * d->block, cols = fc_min(d->block, d->pixels - j0), plane = image * d->groups + group;
    const real *const a = d->a + group * d->few * d->many, *bias = d->call->bias;
    const int each = bias && d->call->bias_per_position;
    for (ptrdiff_t m = 0, planes; m < d->many; m += planes) {
        planes = fc_min(d->many - m, (ptrdiff_t)FC_POINTWISE_PLANES);
        const real *from = d->from + (plane * d->many + m) * d->pixels + j0;
        for (ptrdiff_t f = 0; f < d->few; f += FC_POINTWISE_FEW)
            FC(pointwise_adds)(fc_min(d->few - f, (ptrdiff_t)FC_POINTWISE_FEW), d, from, planes,
                               a + f * d->a_few + m * d->a_many, cols, m == 0,
                               d->to + (plane * d->few + f) * d->pixels + j0);
    }
    for (ptrdiff_t f = 0; bias && f < d->few; f++) {
        const ptrdiff_t k = group * d->few + f;
        FC(pointwise_bias)(bias + (each ? k * d->pixels + j0 : k), each, cols,
                           d->to + (plane * d->few + f) * d->pixels + j0);
    }
}

/* ---- dots */

/* CB planes times each of MB others, over `cols` columns, VB vectors at a time; planes are `pixels` apart. */
FC_INLINE void FC(pointwise_dot)(const int CB, const int MB, const int VB, const real *with, const real *x,
                                 ptrdiff_t pixels, ptrdiff_t cols, real *dots) {
    enum { LINE = FC_LINE / sizeof(real) };
    vec sum[FC_POINTWISE_FEW * FC_POINTWISE_VECTORS];
    FC_UNROLL for (int i = 0; i < CB * MB * VB; i++) sum[i] = (vec){0};
    ptrdiff_t j = 0;
    FC_ROLLED for (; j + VB * LANES <= cols; j += VB * LANES) {
        FC_UNROLL for (int m = 0; m < MB; m++) /* the planes after these: runs end before they are foreseen */
            FC_UNROLL for (ptrdiff_t line = 0; line < VB * LANES; line += LINE)
                __builtin_prefetch(x + (MB + m) * pixels + j + line, 0, 3);
        FC_UNROLL for (int v = 0; v < VB; v++) {
            vec column[FC_POINTWISE_FEW];
            FC_UNROLL for (int m = 0; m < MB; m++) column[m] = FC(load)(x + m * pixels + j + v * LANES);
            FC_UNROLL for (int f = 0; f < CB; f++) {
                const vec factor = FC(load)(with + f * pixels + j + v * LANES);
                FC_UNROLL for (int m = 0; m < MB; m++) sum[(f * MB + m) * VB + v] += factor * column[m];
            }
        }
    }
    for (; j < cols; j += LANES) {
        const FC(lanes) part = FC(between)(0, fc_min(cols - j, (ptrdiff_t)LANES));
        FC_UNROLL for (int f = 0; f < CB; f++) {
            const vec factor = FC(load_lanes)(with + f * pixels + j, part);
            FC_UNROLL for (int m = 0; m < MB; m++)
                sum[(f * MB + m) * VB] += factor * FC(load_lanes)(x + m * pixels + j, part);
        }
    }
    FC_UNROLL for (int i = 0; i < CB * MB; i++) {
        FC_UNROLL for (int v = 1; v < VB; v++) sum[i * VB] += sum[i * VB + v];
        dots[i] = FC(matvec_total)(sum[i * VB]);
    }
}

/* Of `most` planes as many as there is a tile for: returns how many. One stream from memory alone is slower by 1.5. */
FC_NOINLINE ptrdiff_t FC(pointwise_dots)(ptrdiff_t few, ptrdiff_t most, const real *with, const real *x,
                                         ptrdiff_t pixels, ptrdiff_t cols, real *dots) {
    const ptrdiff_t together = fc_min(most, 4 / few);
    switch (10 * few + together) {
    case 14: FC(pointwise_dot)(1, 4, 3, with, x, pixels, cols, dots); return 4;
    case 22: FC(pointwise_dot)(2, 2, 3, with, x, pixels, cols, dots); return 2;
    }
    switch (few) {
    case 1: FC(pointwise_dot)(1, 1, 3, with, x, pixels, cols, dots); break;
    case 2: FC(pointwise_dot)(2, 1, 3, with, x, pixels, cols, dots); break;
    case 3: FC(pointwise_dot)(3, 1, 3, with, x, pixels, cols, dots); break;
    case 4: FC(pointwise_dot)(4, 1, 3, with, x, pixels, cols, dots); break;
    }
    return 1;
}

static void FC(pointwise_dots_item)(void *context, ptrdiff_t i, int number) {
    (void)number;
    const FC(pointwise) *d = context;
    const ptrdiff_t group = i / d->parts, first = fc_part(d->many, d->parts, i % d->parts);
    const ptrdiff_t end = fc_part(d->many, d->parts, i % d->parts + 1), images = d->call->geometry.N;
    real *const to = d->to + group * d->few * d->many;
    for (ptrdiff_t f = 0; f < d->few; f++)
        for (ptrdiff_t m = first; m < end; m++)
            to[f * d->a_few + m * d->a_many] = 0;
    for (ptrdiff_t b = 0; b < images * d->blocks; b++) {
        const ptrdiff_t j0 = b % d->blocks * d->block, cols = fc_min(d->block, d->pixels - j0);
        const ptrdiff_t plane = b / d->blocks * d->groups + group;
        for (ptrdiff_t f0 = 0; f0 < d->few; f0 += FC_POINTWISE_FEW) {
            const ptrdiff_t few = fc_min(d->few - f0, (ptrdiff_t)FC_POINTWISE_FEW);
            const real *const with = d->with + (plane * d->few + f0) * d->pixels + j0;
            for (ptrdiff_t m = first, planes; m < end; m += planes) {
                real dots[FC_POINTWISE_FEW];
                const real *from = d->from + (plane * d->many + m) * d->pixels + j0;
                planes = FC(pointwise_dots)(few, end - m, with, from, d->pixels, cols, dots);
                for (ptrdiff_t f = 0; f < few; f++)
                    for (ptrdiff_t i = 0; i < planes; i++)
                        to[(f0 + f) * d->a_few + (m + i) * d->a_many] += dots[f * planes + i];
            }
        }
    }
}

/* ---- run */

static FC(pointwise) FC(plan_pointwise)(const fc_call *call, int few_outputs) {
    const fc_geometry *g = &call->geometry;
    const ptrdiff_t in = fc_share(g->C, g->groups), out = fc_share(g->K, g->groups);
    FC(pointwise) d = {.call = call, .pixels = g->H * g->W, .groups = g->groups, .a = call->w, .parts = 1};
    d.few = few_outputs ? out : in;
    d.many = few_outputs ? in : out;
    d.a_few = few_outputs ? in : 1;
    d.a_many = few_outputs ? 1 : in;
    d.block = fc_clip(FC_POINTWISE_FEW / d.few, 1, FC_POINTWISE_FEW) * FC_POINTWISE_BYTES / (ptrdiff_t)sizeof(real);
    d.blocks = fc_ceil_div(d.pixels, d.block);
    return d;
}

static void FC(pointwise_sums)(const fc_call *call, FC(pointwise) *d, int threads) {
    fc_parallel(threads, call->geometry.N * d->groups * d->blocks, call->keep_denormals, FC(pointwise_sums_item), d);
}

static void FC(pointwise_forward)(const fc_call *call) {
    FC(pointwise) d = FC(plan_pointwise)(call, 1);
    d.from = call->x;
    d.to = call->y;
    FC(pointwise_sums)(call, &d, fc_worthwhile_threads(&call->geometry, call->threads));
}

static void FC(pointwise_backward_input)(const fc_call *call) {
    FC(pointwise) d = FC(plan_pointwise)(call, 0);
    d.from = call->y;
    d.to = call->x;
    FC(pointwise_sums)(call, &d, fc_worthwhile_threads(&call->geometry, call->threads));
}

static void FC(pointwise_backward_weight)(const fc_call *call) {
    const int few_outputs = call->geometry.K <= call->geometry.C;
    const int threads = fc_worthwhile_threads(&call->geometry, call->threads);
    FC(pointwise) d = FC(plan_pointwise)(call, few_outputs);
    d.from = few_outputs ? call->x : call->y;
    d.with = few_outputs ? call->y : call->x;
    d.to = call->w;
    d.parts = threads > 1 ? fc_min(d.many, 4 * (ptrdiff_t)threads) : 1;
    fc_parallel(threads, d.groups * d.parts, call->keep_denormals, FC(pointwise_dots_item), &d);
}
