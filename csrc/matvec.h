/* matvec: a matrix times a vector for each of a few images, where the kernel and the plane are one element.
 *
 * That is what is left of 1x1 layers behind a global pooling (squeeze and excitation), and of kernels that cover the
 * whole plane. Every weight is used once an image, so nothing is packed: the weights stream through, in the order in
 * which they lie. An item is FC_MATVEC_ROWS rows of the weights (forward, backward_weight) or FC_MATVEC_SPAN columns
 * (backward_input), of one group.
 *
 *     forward          y[n,k] = sum over c of w[k,c] x[n,c]
 *     backward_input   x[n,c] = sum over k of w[k,c] y[n,k]
 *     backward_weight  w[k,c] = sum over n of x[n,c] y[n,k] */

#ifndef FC_MATVEC_ROWS
#define FC_MATVEC_ROWS 4   /* with two vectors each, sums enough to hide the latency of an FMA */
#define FC_MATVEC_SPAN 512 /* of x, which stays in the first level of cache */
#define FC_MATVEC_IMAGES 16       /* beyond, a matrix product is worth its packing (Zen 3) ... */
#define FC_MATVEC_WEIGHT_IMAGES 4 /* ... and for the weights, which this writes once an image */

static const char *matvec_unsupported(const fc_geometry *g) {
    return g->H * g->W * g->R * g->S * g->P * g->Q == 1 && g->pad_h == 0 && g->pad_w == 0
               ? NULL
               : "a plane or kernel of more than one element";
}

static const char *matvec_unwise(const fc_geometry *g, int threads) {
    (void)threads;
    return g->N > FC_MATVEC_IMAGES ? "so many images are worth a matrix product" : NULL;
}

static const char *matvec_unwise_weight(const fc_geometry *g, int threads) {
    (void)threads;
    return g->N > FC_MATVEC_WEIGHT_IMAGES ? "so many images are worth a matrix product" : NULL;
}
#endif

typedef struct {
    const fc_call *call;
    ptrdiff_t Cg, Kg, blocks; /* channels a group; items a group */
} FC(matvec);

FC_INLINE real FC(matvec_total)(vec v) {
    real sum = 0;
    FC_UNROLL for (int i = 0; i < (int)LANES; i++) sum += v[i];
    return sum;
}

/* The first `rows` of w (rows of `length`) times x. */
FC_INLINE void FC(matvec_dots)(const int rows, const real *w, const real *x, ptrdiff_t length, real *dots) {
    vec even[FC_MATVEC_ROWS], odd[FC_MATVEC_ROWS];
    FC_UNROLL for (int i = 0; i < rows; i++) even[i] = odd[i] = (vec){0};
    ptrdiff_t c = 0;
    FC_ROLLED for (; c + 2 * (ptrdiff_t)LANES <= length; c += 2 * LANES) {
        const vec a = FC(load)(x + c), b = FC(load)(x + c + LANES);
        FC_UNROLL for (int i = 0; i < rows; i++) {
            even[i] += FC(load)(w + i * length + c) * a;
            odd[i] += FC(load)(w + i * length + c + LANES) * b;
        }
    }
    for (; c < length; c += LANES) {
        const FC(lanes) part = FC(between)(0, fc_min(length - c, (ptrdiff_t)LANES));
        const vec a = FC(load_lanes)(x + c, part);
        FC_UNROLL for (int i = 0; i < rows; i++) even[i] += FC(load_lanes)(w + i * length + c, part) * a;
    }
    FC_UNROLL for (int i = 0; i < rows; i++) dots[i] = FC(matvec_total)(even[i] + odd[i]);
}

static void FC(matvec_forward_item)(void *context, ptrdiff_t item, int worker) {
    const FC(matvec) *m = context;
    const fc_call *call = m->call;
    const fc_geometry *g = &call->geometry;
    const real *bias = call->bias;
    const ptrdiff_t group = item / m->blocks, first = item % m->blocks * FC_MATVEC_ROWS;
    const ptrdiff_t rows = fc_min(m->Kg - first, (ptrdiff_t)FC_MATVEC_ROWS), k = group * m->Kg + first;
    const real *w = (const real *)call->w + k * m->Cg;
    (void)worker;
    for (ptrdiff_t n = 0; n < g->N; n++) {
        const real *x = (const real *)call->x + n * g->C + group * m->Cg;
        real *y = (real *)call->y + n * g->K + k, dots[FC_MATVEC_ROWS];
        if (rows == FC_MATVEC_ROWS)
            FC(matvec_dots)(FC_MATVEC_ROWS, w, x, m->Cg, dots);
        else
            for (ptrdiff_t i = 0; i < rows; i++)
                FC(matvec_dots)(1, w + i * m->Cg, x, m->Cg, dots + i);
        for (ptrdiff_t i = 0; i < rows; i++)
            y[i] = dots[i] + (bias ? bias[k + i] : 0);
    }
}

/* to[c] (+)= the sum over `rows` rows of a[i] w[i][c], for the c of one span. */
FC_INLINE void FC(matvec_add)(const int rows, const real *w, ptrdiff_t stride, const real *a, ptrdiff_t length,
                              int fresh, real *to) {
    vec factor[FC_MATVEC_ROWS];
    FC_UNROLL for (int i = 0; i < rows; i++) factor[i] = FC(splat)(a[i]);
    for (ptrdiff_t c = 0; c < length; c += LANES) {
        const FC(lanes) part = FC(between)(0, fc_min(length - c, (ptrdiff_t)LANES));
        const int whole = c + (ptrdiff_t)LANES <= length;
        vec sum = fresh ? (vec){0} : whole ? FC(load)(to + c) : FC(load_lanes)(to + c, part);
        FC_UNROLL for (int i = 0; i < rows; i++)
            sum += factor[i] * (whole ? FC(load)(w + i * stride + c) : FC(load_lanes)(w + i * stride + c, part));
        if (whole)
            FC(store)(to + c, sum);
        else
            FC(store_lanes)(to + c, sum, part);
    }
}

static void FC(matvec_input_item)(void *context, ptrdiff_t item, int worker) {
    const FC(matvec) *m = context;
    const fc_call *call = m->call;
    const fc_geometry *g = &call->geometry;
    const ptrdiff_t group = item / m->blocks, first = item % m->blocks * FC_MATVEC_SPAN;
    const ptrdiff_t length = fc_min(m->Cg - first, (ptrdiff_t)FC_MATVEC_SPAN);
    const real *w = (const real *)call->w + group * m->Kg * m->Cg + first;
    (void)worker;
    for (ptrdiff_t n = 0; n < g->N; n++) {
        const real *y = (const real *)call->y + n * g->K + group * m->Kg;
        real *x = (real *)call->x + n * g->C + group * m->Cg + first;
        ptrdiff_t k = 0;
        for (; k + FC_MATVEC_ROWS <= m->Kg; k += FC_MATVEC_ROWS)
            FC(matvec_add)(FC_MATVEC_ROWS, w + k * m->Cg, m->Cg, y + k, length, k == 0, x);
        for (; k < m->Kg; k++)
            FC(matvec_add)(1, w + k * m->Cg, m->Cg, y + k, length, k == 0, x);
    }
}

static void FC(matvec_weight_item)(void *context, ptrdiff_t item, int worker) {
    const FC(matvec) *m = context;
    const fc_call *call = m->call;
    const fc_geometry *g = &call->geometry;
    const ptrdiff_t group = item / m->blocks, first = item % m->blocks * FC_MATVEC_ROWS;
    const ptrdiff_t last = fc_min(first + FC_MATVEC_ROWS, m->Kg);
    (void)worker;
    for (ptrdiff_t k = group * m->Kg + first; k < group * m->Kg + last; k++)
        for (ptrdiff_t n = 0; n < g->N; n++)
            FC(matvec_add)(1, (const real *)call->x + n * g->C + group * m->Cg, 0, (const real *)call->y + n * g->K + k,
                           m->Cg, n == 0, (real *)call->w + k * m->Cg);
}

static void FC(matvec_run)(const fc_call *call, int by_columns, void (*run)(void *, ptrdiff_t, int)) {
    const fc_geometry *g = &call->geometry;
    FC(matvec) m = {call, fc_share(g->C, g->groups), fc_share(g->K, g->groups), 0};
    m.blocks = by_columns ? fc_ceil_div(m.Cg, FC_MATVEC_SPAN) : fc_ceil_div(m.Kg, FC_MATVEC_ROWS);
    fc_parallel(fc_worthwhile_threads(g, call->threads), g->groups * m.blocks, call->keep_denormals, run, &m);
}

static void FC(matvec_forward)(const fc_call *call) { FC(matvec_run)(call, 0, FC(matvec_forward_item)); }
static void FC(matvec_backward_input)(const fc_call *call) { FC(matvec_run)(call, 1, FC(matvec_input_item)); }
static void FC(matvec_backward_weight)(const fc_call *call) { FC(matvec_run)(call, 0, FC(matvec_weight_item)); }
