/* gemm: backward_weight of layers with enough channels, a matrix product summed over pixels j without a matrix of them:
 *
 *     w[k][t] = sum over images and pixels j of  y[k][j] * x[offset[t] + j * step]
 *
 * One operand is vectors, a number of w a lane, the other is single numbers spread over all lanes; pixels are the
 * loop, so nothing has to be summed over lanes at the end, and a pixel outside costs nothing as there are none: rows
 * are walked one by one. Which operand is which depends on the layer:
 *   outputs   LANES output channels. Some channels' y is turned to [pixel][channel] in a panel that stays in level 1;
 *             x is read where it is, or from a copy with its padding. Most layers.
 *   inputs    LANES input channels, x turned to [row][column][channel], padded; y read where it is. Few output
 *             channels, and 1x1 kernels, whose sums are pieces of rows of w: nothing of the result is turned.
 *   taps      LANES neighbours of a row of x, which are taps already; y read where it is. Long kernels on few channels.
 *
 * A register tile is I numbers times V vectors, all its sums in registers. Boxes of up to FC_WEIGHT_PIXELS pixels, of
 * several images where planes are small, are summed in registers; boxes, and the parts of longer ones with taps in the
 * lanes, are then added in memory, which keeps long sums accurate. With outputs in the lanes the sums of some 100 taps
 * are turned to rows of w while they are in level 1; the other two keep all sums apart until the last box, as their w
 * is small.
 *
 * Threads take groups, ranges of vectors, ranges of numbers, or (small w) runs of boxes with a sum each, added in
 * order at the end: what is added to what depends on the geometry and the number of threads alone.
 *
 * Workspace: the tables of distances, the sums of the runs, and for each worker the x of a box, a panel of y or the
 * rows that it is turned from, and the sums of some taps. */
#ifndef FC_GEMM_WEIGHT_H
#define FC_GEMM_WEIGHT_H

enum {
    FC_WEIGHT_PIXELS = FC_VECTOR_BYTES == 64 ? 224 : 256, /* two vectors of each: 28 and 16 KB, most of level 1 */
    FC_WEIGHT_LONG = 4096,                                /* taps in the lanes: columns of a box, */
    FC_WEIGHT_LONG_BYTES = 128 << 10,                     /* and their x, which stays in level 2 */
    FC_WEIGHT_FEW = 2,                                    /* boxes up to which each is summed in halves */
    FC_WEIGHT_TILES_A_TURN = 16,                          /* register tiles whose sums are turned together */
    FC_WEIGHT_KEPT = 1 << 20,                             /* bytes of sums that are turned once, after the last box */
    FC_WEIGHT_PANELS = 4,                                 /* 1x1: panels of x at a time: lines of w are filled */
    FC_WEIGHT_TILES_A_PANEL = 8                           /* under so many tiles of y, which stay in level 2 */
};

typedef enum { FC_LANES_OUTPUTS, FC_LANES_INPUTS, FC_LANES_TAPS } fc_weight_lanes;

typedef struct {
    const fc_call *call;
    fc_geometry g;
    fc_weight_lanes lanes;
    ptrdiff_t channels, outputs, taps;                  /* a group */
    ptrdiff_t images, rows, cols;                       /* of the largest box */
    ptrdiff_t boxes_n, boxes_h, boxes_w, boxes;
    int in_place;                                       /* x needs no padding: it is read where it is */
    int pointwise;                                      /* 1x1 without padding, inputs in the lanes */
    int kept;                                           /* outputs in the lanes: all sums are turned after all boxes */
    ptrdiff_t packed_rows, packed_cols;                 /* x of a box, padded */
    ptrdiff_t x_element, x_line, x_channel, x_image;    /* distances of columns, rows, channels (or LANES), images */
    ptrdiff_t vectors, scalars;                         /* of a group: of one operand, of the other */
    ptrdiff_t blocks, tiles;                            /* of the vectors, of the scalars: one register tile */
    ptrdiff_t block, tile;                              /* the most in one */
    ptrdiff_t vector_parts, scalar_parts, runs;         /* among threads: of the blocks, of the tiles, of the boxes */
    ptrdiff_t *vector_offsets, *scalar_offsets;
    void *sums;                                         /* runs > 1: a whole w for each but the first */
    char *workers;
    size_t vector_offsets_bytes, scalar_offsets_bytes, sums_bytes, x_bytes, panel_bytes, rows_bytes, tiles_bytes;
} fc_gemm_weight;

/* `total` in equal parts of at most `most`: the size of the largest. */
static inline ptrdiff_t fc_evenly(ptrdiff_t total, ptrdiff_t most) {
    return fc_ceil_div(total, fc_ceil_div(total, fc_max(most, 1)));
}

/* The most scalars of a register tile of 1, 2, 3 or 4 vectors. At least 8 sums hide the latency of a multiply-add. */
static inline ptrdiff_t fc_most_scalars(ptrdiff_t vectors) {
#if FC_REGISTERS == 32
    static const ptrdiff_t most[] = {12, 12, 8, 6};
#else
    static const ptrdiff_t most[] = {10, 6, 4, 3};
#endif
    return most[vectors - 1];
}

/* Cycles a pixel of one register tile: two multiply-adds or two loads a cycle, four of latency. */
static inline double fc_tile_cost(double vectors, double scalars) {
    const double products = vectors * scalars, loads = vectors + scalars, step = products > loads ? products : loads;
    return step > 8 ? step / 2 : 4;
}

/* Of all vectors times all scalars. */
static inline double fc_products_cost(ptrdiff_t vectors, ptrdiff_t scalars, ptrdiff_t most_vectors) {
    const ptrdiff_t blocks = fc_ceil_div(vectors, most_vectors), less = vectors / blocks, larger = vectors % blocks;
    const ptrdiff_t tiles = fc_ceil_div(scalars, fc_most_scalars(most_vectors));
    const double s = (double)scalars / (double)tiles;
    const double larger_ones = (double)larger * fc_tile_cost((double)(less + 1), s);
    return (double)tiles * (larger_ones + (double)(blocks - larger) * fc_tile_cost((double)less, s));
}

static inline ptrdiff_t fc_best_block(ptrdiff_t vectors, ptrdiff_t scalars) {
    static const ptrdiff_t order[] = {2, 3, 1, 4};
    ptrdiff_t best = 2;
    for (int i = 0; i < 4; i++)
        if (fc_products_cost(vectors, scalars, order[i]) < 0.999 * fc_products_cost(vectors, scalars, best))
            best = order[i];
    return best;
}

static inline void fc_weight_operands(const fc_geometry *g, fc_weight_lanes lanes, ptrdiff_t width, ptrdiff_t *vectors,
                                      ptrdiff_t *scalars) {
    const ptrdiff_t channels = g->C / g->groups, outputs = g->K / g->groups;
    *vectors = lanes == FC_LANES_OUTPUTS  ? fc_ceil_div(outputs, width)
               : lanes == FC_LANES_INPUTS ? fc_ceil_div(channels, width) * g->R * g->S
                                          : channels * g->R * fc_ceil_div(g->S, width);
    *scalars = lanes == FC_LANES_OUTPUTS ? channels * g->R * g->S : outputs;
}

/* Cycles a pixel, packing included: a vector of a turned operand costs about 1.5, one that is not full twice that. */
static inline double fc_weight_cost(const fc_geometry *g, fc_weight_lanes lanes, ptrdiff_t width) {
    ptrdiff_t vectors, scalars;
    fc_weight_operands(g, lanes, width, &vectors, &scalars);
    const double cost = fc_products_cost(vectors, scalars, fc_best_block(vectors, scalars));
    if (lanes == FC_LANES_TAPS)
        return cost;
    const ptrdiff_t turned = (lanes == FC_LANES_OUTPUTS ? g->K : g->C) / g->groups;
    const ptrdiff_t pixels = lanes == FC_LANES_OUTPUTS || fc_pointwise(g) ? 1 : g->stride_h * g->stride_w;
    return cost + 1.5 * (double)pixels * (double)(fc_ceil_div(turned, width) + (turned % width != 0));
}

/* The cheapest: `turning` is what sums with the outputs in the lanes cost more. */
static inline fc_weight_lanes fc_cheapest_weight_lanes(const fc_geometry *g, ptrdiff_t width, double turning) {
    fc_weight_lanes best = FC_LANES_OUTPUTS;
    if (fc_weight_cost(g, FC_LANES_INPUTS, width) < fc_weight_cost(g, best, width) + turning)
        best = FC_LANES_INPUTS;
    if (g->dilation_w == 1 && fc_weight_cost(g, FC_LANES_TAPS, width) < fc_weight_cost(g, best, width))
        best = FC_LANES_TAPS;
    return best;
}

static inline fc_weight_lanes fc_choose_weight_lanes(const fc_geometry *g, ptrdiff_t width) {
    /* sums of a 1x1 kernel go straight to w with inputs in the lanes; turned, a vector costs about 4 a box */
    const double pixels = (double)fc_min(g->N * g->P * g->Q, FC_WEIGHT_PIXELS);
    const double products = (double)(g->K / g->groups) * (double)(g->C / g->groups) / (double)width;
    return fc_cheapest_weight_lanes(g, width, fc_pointwise(g) ? 4 * products / pixels : 0);
}

/* Measured against the direct summation on 300 random small layers: 1.6 to 2 times as fast where the estimate is below
 * 2 times that of full registers and lanes, 1.1 to 1.3 times at 2.5, behind from 3 on; from 6 on where columns lie 3 or
 * more apart, which direct summation copies one by one. */
static inline const char *fc_gemm_weight_unwise(const fc_geometry *g, ptrdiff_t width) {
    const ptrdiff_t channels = g->C / g->groups, outputs = g->K / g->groups;
    const double full = (double)(channels * g->R * g->S) * (double)outputs / (double)(2 * width);
    const double limit = g->stride_w > 2 ? 6 : 3;
    if (channels == 1 && outputs == 1)
        return "one channel in and out a group: level with direct summation at best";
    if (fc_weight_cost(g, fc_cheapest_weight_lanes(g, width, 0), width) > limit * full)
        return "too few channels and taps to fill the vectors";
    return NULL;
}

/* Most columns of a box of one row. With taps in the lanes y is read from memory as it is, some rows at a time: longer
 * runs of them come faster (one channel of 16 taps, stride 8: 1.1 times, 31 taps 1.04). Register sums are no longer. */
static inline ptrdiff_t fc_weight_columns(const fc_gemm_weight *d, int threads, size_t size) {
    const fc_geometry *g = &d->g;
    if (d->lanes != FC_LANES_TAPS)
        return FC_WEIGHT_PIXELS;
    const ptrdiff_t reach_h = (g->R - 1) * g->dilation_h + 1;
    const ptrdiff_t column = d->channels * reach_h * g->stride_w * (ptrdiff_t)size; /* bytes of x */
    ptrdiff_t most = fc_min(FC_WEIGHT_LONG, FC_WEIGHT_LONG_BYTES / column);
    if (threads > 1) /* enough boxes to share out */
        most = fc_min(most, g->N * g->Q / (4 * threads));
    return fc_max(most, FC_WEIGHT_PIXELS);
}

static inline void fc_choose_weight_boxes(fc_gemm_weight *d, int threads, size_t size) {
    const fc_geometry *g = &d->g;
    const ptrdiff_t most = FC_WEIGHT_PIXELS;
    d->images = d->rows = 1;
    d->cols = g->Q;
    if (g->Q > most)
        d->cols = fc_evenly(g->Q, fc_weight_columns(d, threads, size));
    else if (g->P > most / g->Q)
        d->rows = fc_evenly(g->P, most / g->Q);
    else {
        d->rows = g->P;
        d->images = fc_evenly(g->N, most / (g->P * g->Q));
    }
    d->boxes_n = fc_ceil_div(g->N, d->images);
    d->boxes_h = fc_ceil_div(g->P, d->rows);
    d->boxes_w = fc_ceil_div(g->Q, d->cols);
    d->boxes = d->boxes_n * d->boxes_h * d->boxes_w;
}

static inline void fc_lay_out_x(fc_gemm_weight *d, ptrdiff_t width, size_t size) {
    const fc_geometry *g = &d->g;
    const ptrdiff_t reach_h = (g->R - 1) * g->dilation_h + 1, reach_w = (g->S - 1) * g->dilation_w + 1;
    d->packed_rows = (d->rows - 1) * g->stride_h + reach_h;
    d->packed_cols = (d->cols - 1) * g->stride_w + reach_w;
    if (d->pointwise)
        return;
    const int inside = (g->P - 1) * g->stride_h + reach_h <= g->H && (g->Q - 1) * g->stride_w + reach_w <= g->W;
    d->in_place = d->lanes == FC_LANES_OUTPUTS && !g->pad_h && !g->pad_w && inside;
    if (d->in_place) {
        d->x_element = 1;
        d->x_line = g->W;
        d->x_channel = g->H * g->W;
        d->x_image = g->C * d->x_channel;
        return;
    }
    d->x_element = d->lanes == FC_LANES_INPUTS ? width : 1;
    d->x_line = d->packed_cols * d->x_element;
    d->x_channel = d->packed_rows * d->x_line;
    if (d->x_channel * (ptrdiff_t)size % 1024 == 0) /* such channels would share cache sets */
        d->x_channel += width;
    d->x_image = d->x_channel * (d->lanes == FC_LANES_INPUTS ? fc_ceil_div(d->channels, width) : d->channels);
    /* the last vector may reach further, read or written */
    d->x_bytes = fc_round_up((size_t)(d->images * d->x_image + width) * size);
}

static inline void fc_split_weight(fc_gemm_weight *d, int threads) {
    d->vector_parts = d->scalar_parts = d->runs = 1;
    if (threads == 1 || d->g.groups >= 4 * threads || d->g.groups % threads == 0)
        return;
    if (d->blocks % threads == 0)
        d->vector_parts = threads;
    else if (d->tiles >= 8 * threads)
        d->scalar_parts = threads;
    else if (d->blocks >= 4 * threads)
        d->vector_parts = threads;
    else if (d->boxes >= threads)
        d->runs = threads;
    else
        d->scalar_parts = fc_min(d->tiles, threads);
}

static inline fc_gemm_weight fc_plan_gemm_weight(const fc_geometry *given, int threads, ptrdiff_t width, size_t size) {
    fc_gemm_weight d = {.g = fc_flattened(given)};
    d.lanes = fc_choose_weight_lanes(&d.g, width);
    d.channels = d.g.C / d.g.groups, d.outputs = d.g.K / d.g.groups;
    d.taps = d.channels * d.g.R * d.g.S;
    d.pointwise = d.lanes == FC_LANES_INPUTS && fc_pointwise(&d.g);
    fc_choose_weight_boxes(&d, threads, size);
    fc_lay_out_x(&d, width, size);
    fc_weight_operands(&d.g, d.lanes, width, &d.vectors, &d.scalars);
    const ptrdiff_t block = fc_best_block(d.vectors, d.scalars);
    d.blocks = fc_ceil_div(d.vectors, block);
    d.block = fc_ceil_div(d.vectors, d.blocks);
    d.tiles = fc_ceil_div(d.scalars, fc_most_scalars(block));
    d.tile = fc_ceil_div(d.scalars, d.tiles);
    fc_split_weight(&d, threads);
    const ptrdiff_t pixels = d.images * d.rows * d.cols;
    const ptrdiff_t some = fc_min(FC_WEIGHT_TILES_A_TURN, d.tiles) * d.tile + width;
    const ptrdiff_t all = d.scalars * d.vectors;
    d.kept = d.lanes == FC_LANES_OUTPUTS && d.boxes > d.runs && all * width * (ptrdiff_t)size <= FC_WEIGHT_KEPT;
    const ptrdiff_t sums = d.lanes == FC_LANES_OUTPUTS && !d.kept ? some * d.block
                           : d.pointwise               ? d.tile * d.block
                                                       : all + width * d.block;
    const ptrdiff_t turned = d.lanes == FC_LANES_OUTPUTS || d.pointwise ? d.rows * d.cols : d.packed_cols;
    d.vector_offsets_bytes = fc_round_up((size_t)d.vectors * sizeof(ptrdiff_t));
    d.scalar_offsets_bytes = fc_round_up((size_t)d.scalars * sizeof(ptrdiff_t));
    d.sums_bytes = fc_round_up((size_t)((d.runs - 1) * d.g.K * d.taps) * size);
    const ptrdiff_t panels = d.lanes == FC_LANES_OUTPUTS ? 1 : d.pointwise ? fc_min(FC_WEIGHT_PANELS, d.blocks) : 0;
    d.panel_bytes = fc_round_up((size_t)(panels * pixels * d.block * width) * size);
    d.rows_bytes = d.lanes == FC_LANES_TAPS ? 0 : fc_round_up((size_t)(width * (turned + 4)) * size);
    d.tiles_bytes = fc_round_up((size_t)(sums * width) * size);
    return d;
}

static inline ptrdiff_t fc_first_vector(const fc_gemm_weight *d, ptrdiff_t block) {
    return fc_part(d->vectors, d->blocks, block);
}

static inline ptrdiff_t fc_first_scalar(const fc_gemm_weight *d, ptrdiff_t tile) {
    return fc_part(d->scalars, d->tiles, tile);
}

static inline size_t fc_gemm_weight_worker_bytes(const fc_gemm_weight *d) {
    return d->x_bytes + d->panel_bytes + d->rows_bytes + d->tiles_bytes;
}

#endif

/* ---- the register tile */

#undef FC_PRODUCTS
#if FC_REGISTERS == 32
#define FC_PRODUCTS 24
#else
#define FC_PRODUCTS 12
#endif

/* out[i][v] = sum over the pixels of a box of  scalars[scalar_offset[i] + pixel] * vectors[vector_offset[v] + pixel
 * ...], the pixel's place being step * column + row * line + image * image of each operand. */
typedef struct {
    const real *vectors, *scalars;
    const ptrdiff_t *vector_offset, *scalar_offset;
    ptrdiff_t images, rows, cols;
    ptrdiff_t vector_step, vector_line, vector_image, scalar_step, scalar_line, scalar_image;
    real *out;
    ptrdiff_t out_step;
    int add; /* to what is in `out` */
} FC(products);

FC_INLINE void FC(products_tile)(const int I, const int V, const FC(products) *p) {
    vec sum[FC_PRODUCTS];
    FC_UNROLL for (int i = 0; i < I * V; i++) sum[i] = (vec){0};
    const real *vectors[4], *scalars[12];
    FC_UNROLL for (int v = 0; v < V; v++) vectors[v] = p->vectors + p->vector_offset[v];
    FC_UNROLL for (int i = 0; i < I; i++) scalars[i] = p->scalars + p->scalar_offset[i];
    const ptrdiff_t vector_step = p->vector_step, scalar_step = p->scalar_step;
    for (ptrdiff_t image = 0; image < p->images; image++)
        for (ptrdiff_t row = 0; row < p->rows; row++) {
            ptrdiff_t a = image * p->vector_image + row * p->vector_line;
            ptrdiff_t b = image * p->scalar_image + row * p->scalar_line;
            FC_ROLLED for (ptrdiff_t col = p->cols; col; col--, a += vector_step, b += scalar_step) {
                vec held[4];
                FC_UNROLL for (int v = 0; v < V; v++) held[v] = FC(load)(vectors[v] + a);
                FC_UNROLL for (int i = 0; i < I; i++) {
                    const vec scalar = FC(splat)(scalars[i][b]);
                    FC_UNROLL for (int v = 0; v < V; v++) sum[i * V + v] += scalar * held[v];
                }
            }
        }
    if (p->add)
        FC_UNROLL for (int i = 0; i < I; i++)
            FC_UNROLL for (int v = 0; v < V; v++) sum[i * V + v] += FC(load)(p->out + i * p->out_step + v * LANES);
    FC_UNROLL for (int i = 0; i < I; i++)
        FC_UNROLL for (int v = 0; v < V; v++) FC(store)(p->out + i * p->out_step + v * LANES, sum[i * V + v]);
}

FC_NOINLINE void FC(products_1)(ptrdiff_t scalars, const FC(products) *p) {
    switch (scalars) {
    case 1: FC(products_tile)(1, 1, p); break;
    case 2: FC(products_tile)(2, 1, p); break;
    case 3: FC(products_tile)(3, 1, p); break;
    case 4: FC(products_tile)(4, 1, p); break;
    case 5: FC(products_tile)(5, 1, p); break;
    case 6: FC(products_tile)(6, 1, p); break;
    case 7: FC(products_tile)(7, 1, p); break;
    case 8: FC(products_tile)(8, 1, p); break;
    case 9: FC(products_tile)(9, 1, p); break;
    case 10: FC(products_tile)(10, 1, p); break;
#if FC_REGISTERS == 32
    case 11: FC(products_tile)(11, 1, p); break;
    case 12: FC(products_tile)(12, 1, p); break;
#endif
    }
}

FC_NOINLINE void FC(products_2)(ptrdiff_t scalars, const FC(products) *p) {
    switch (scalars) {
    case 1: FC(products_tile)(1, 2, p); break;
    case 2: FC(products_tile)(2, 2, p); break;
    case 3: FC(products_tile)(3, 2, p); break;
    case 4: FC(products_tile)(4, 2, p); break;
    case 5: FC(products_tile)(5, 2, p); break;
    case 6: FC(products_tile)(6, 2, p); break;
#if FC_REGISTERS == 32
    case 7: FC(products_tile)(7, 2, p); break;
    case 8: FC(products_tile)(8, 2, p); break;
    case 9: FC(products_tile)(9, 2, p); break;
    case 10: FC(products_tile)(10, 2, p); break;
    case 11: FC(products_tile)(11, 2, p); break;
    case 12: FC(products_tile)(12, 2, p); break;
#endif
    }
}

FC_NOINLINE void FC(products_3)(ptrdiff_t scalars, const FC(products) *p) {
    switch (scalars) {
    case 1: FC(products_tile)(1, 3, p); break;
    case 2: FC(products_tile)(2, 3, p); break;
    case 3: FC(products_tile)(3, 3, p); break;
    case 4: FC(products_tile)(4, 3, p); break;
#if FC_REGISTERS == 32
    case 5: FC(products_tile)(5, 3, p); break;
    case 6: FC(products_tile)(6, 3, p); break;
    case 7: FC(products_tile)(7, 3, p); break;
    case 8: FC(products_tile)(8, 3, p); break;
#endif
    }
}

FC_NOINLINE void FC(products_4)(ptrdiff_t scalars, const FC(products) *p) {
    switch (scalars) {
    case 1: FC(products_tile)(1, 4, p); break;
    case 2: FC(products_tile)(2, 4, p); break;
    case 3: FC(products_tile)(3, 4, p); break;
#if FC_REGISTERS == 32
    case 4: FC(products_tile)(4, 4, p); break;
    case 5: FC(products_tile)(5, 4, p); break;
    case 6: FC(products_tile)(6, 4, p); break;
#endif
    }
}

static void FC(run_products)(ptrdiff_t scalars, ptrdiff_t vectors, const FC(products) *p) {
    switch (vectors) {
    case 1: FC(products_1)(scalars, p); break;
    case 2: FC(products_2)(scalars, p); break;
    case 3: FC(products_3)(scalars, p); break;
    case 4: FC(products_4)(scalars, p); break;
    }
}

/* The same, the box in two halves one after the other. */
static void FC(run_halves)(ptrdiff_t scalars, ptrdiff_t vectors, const FC(products) *whole) {
    FC(products) p = *whole;
    ptrdiff_t vector = whole->vector_step, scalar = whole->scalar_step, *half = &p.cols;
    if (p.images > 1)
        half = &p.images, vector = p.vector_image, scalar = p.scalar_image;
    else if (p.rows > 1)
        half = &p.rows, vector = p.vector_line, scalar = p.scalar_line;
    const ptrdiff_t all = *half;
    *half = all / 2;
    FC(run_products)(scalars, vectors, &p);
    p.vectors += *half * vector;
    p.scalars += *half * scalar;
    p.add = 1;
    *half = all - *half;
    FC(run_products)(scalars, vectors, &p);
}

/* ---- operands */

/* LANES rows of `count` numbers, `step` apart, turned: to[j * apart] is number j of each. `overlap`: the last turn may
 * do numbers of the one before once more, else rows are of a multiple of FC_TURN. */
static void FC(turn_rows)(const real *from, ptrdiff_t step, ptrdiff_t count, int overlap, real *to, ptrdiff_t apart) {
    for (ptrdiff_t next = 0; next < count; next += FC_TURN) {
        const ptrdiff_t j = overlap ? fc_min(next, count - FC_TURN) : next, stored = fc_min(FC_TURN, count - j);
        vec out[FC_TURN];
        FC(turn)(from + j, step, out);
        if (stored == FC_TURN)
            FC_UNROLL for (int c = 0; c < FC_TURN; c++) FC(store)(to + (j + c) * apart, out[c]);
        else
            for (ptrdiff_t c = 0; c < stored; c++)
                FC(store)(to + (j + c) * apart, out[c]);
    }
}

/* `channels` (at most LANES) rows of `count` numbers, `step` apart, turned: to[j * apart] is number j of each, 0 in
 * lanes that have no row. `rows` is space for LANES of them. */
static void FC(turn_run)(const real *from, ptrdiff_t step, ptrdiff_t channels, ptrdiff_t count, real *rows, real *to,
                         ptrdiff_t apart) {
    if (channels == LANES && count >= FC_TURN) {
        FC(turn_rows)(from, step, count, 1, to, apart);
        return;
    }
    const ptrdiff_t pitch = fc_ceil_div(count, FC_TURN) * FC_TURN;
    memset(rows, 0, (size_t)(LANES * pitch) * sizeof(real));
    for (ptrdiff_t c = 0; c < channels; c++)
        memcpy(rows + c * pitch, from + c * step, (size_t)count * sizeof(real));
    FC(turn_rows)(rows, pitch, count, 0, to, apart);
}

/* The pixels of one box: images n0 .., rows p0 .., columns q0 .. of y, so many of each. */
typedef struct {
    ptrdiff_t n0, p0, q0, images, rows, cols;
} FC(pixels);

static FC(pixels) FC(weight_box)(const fc_gemm_weight *d, ptrdiff_t b) {
    const ptrdiff_t n0 = b / d->boxes_w / d->boxes_h * d->images, p0 = b / d->boxes_w % d->boxes_h * d->rows;
    const ptrdiff_t q0 = b % d->boxes_w * d->cols;
    return (FC(pixels)){n0, p0, q0, fc_min(d->images, d->g.N - n0), fc_min(d->rows, d->g.P - p0),
                        fc_min(d->cols, d->g.Q - q0)};
}

/* A row of `cols` numbers, lo .. hi of which are there, from `source` on; the others are 0. Whole vectors are written,
 * and what they write beyond the row is written once more by the next one. */
FC_INLINE void FC(pack_row)(const real *source, ptrdiff_t lo, ptrdiff_t hi, ptrdiff_t cols, real *to) {
    for (ptrdiff_t j = 0; j < lo; j += LANES)
        FC(store)(to + j, (vec){0});
    ptrdiff_t j = lo;
    for (; j + LANES <= hi; j += LANES, source += LANES)
        FC(store)(to + j, FC(load)(source));
    if (j < hi) {
        FC(store)(to + j, FC(load_lanes)(source, FC(between)(0, hi - j)));
        j += LANES;
    }
    for (; j < cols; j += LANES)
        FC(store)(to + j, (vec){0});
}

/* The same of `channels` rows, turned. */
static void FC(turn_row)(const real *source, ptrdiff_t step, ptrdiff_t channels, ptrdiff_t lo, ptrdiff_t hi,
                         ptrdiff_t cols, real *rows, real *to) {
    for (ptrdiff_t j = 0; j < lo; j++)
        FC(store)(to + j * LANES, (vec){0});
    if (lo < hi)
        FC(turn_run)(source, step, channels, hi - lo, rows, to + lo * LANES, LANES);
    for (ptrdiff_t j = hi; j < cols; j++)
        FC(store)(to + j * LANES, (vec){0});
}

/* The x that a box needs of channels c0 .. c1 of the group that begins at `x`, with its padding. */
static void FC(pack_x)(const fc_gemm_weight *d, const FC(pixels) *box, const real *x, ptrdiff_t c0, ptrdiff_t c1,
                       real *rows, real *to) {
    const fc_geometry *g = &d->g;
    const int turned = d->lanes == FC_LANES_INPUTS;
    const ptrdiff_t unit = turned ? LANES : 1;
    const ptrdiff_t left = box->q0 * g->stride_w - g->pad_w, top = box->p0 * g->stride_h - g->pad_h;
    const ptrdiff_t lo = fc_clip(-left, 0, d->packed_cols), hi = fc_clip(g->W - left, lo, d->packed_cols);
    const ptrdiff_t packed_rows = d->packed_rows - (d->rows - box->rows) * g->stride_h;
    for (ptrdiff_t image = 0; image < box->images; image++)
        for (ptrdiff_t c = c0; c < c1; c += unit) {
            const real *plane = x + ((box->n0 + image) * g->C + c) * g->H * g->W;
            real *line = to + image * d->x_image + c / unit * d->x_channel;
            for (ptrdiff_t i = 0; i < packed_rows; i++, line += d->x_line) {
                const ptrdiff_t h = top + i;
                const int inside = h >= 0 && h < g->H;
                const real *source = plane + (inside ? h * g->W + left + lo : 0);
                if (turned)
                    FC(turn_row)(source, g->H * g->W, fc_min(LANES, c1 - c), inside ? lo : hi, hi, d->packed_cols, rows,
                                 line);
                else
                    FC(pack_row)(source, inside ? lo : hi, hi, d->packed_cols, line);
            }
        }
    if (d->lanes == FC_LANES_TAPS) /* the last vector of taps may reach beyond */
        FC(store)(to + (box->images - 1) * d->x_image + (c1 - 1) * d->x_channel + packed_rows * d->x_line, (vec){0});
}

/* Output channels first .. of a group's y, `vectors` of LANES, turned to [pixel][vectors][LANES]. */
static void FC(pack_y)(const fc_gemm_weight *d, const FC(pixels) *box, const real *y, ptrdiff_t first,
                       ptrdiff_t vectors, real *rows, real *panel) {
    const fc_geometry *g = &d->g;
    const ptrdiff_t plane = g->P * g->Q, run = box->rows * box->cols;
    for (ptrdiff_t image = 0; image < box->images; image++)
        for (ptrdiff_t v = 0; v < vectors; v++) {
            const ptrdiff_t k = first + v * LANES;
            const real *from = y + ((box->n0 + image) * g->K + k) * plane + box->p0 * g->Q + box->q0;
            real *to = panel + (image * run * vectors + v) * LANES;
            FC(turn_run)(from, plane, fc_min(LANES, d->outputs - k), run, rows, to, vectors * LANES);
        }
}

/* The pixels of x that one image of a box of a 1x1 kernel with a stride reads, of `channels` channels, turned. */
static void FC(turn_strided)(const fc_geometry *g, const FC(pixels) *box, const real *from, ptrdiff_t channels,
                             real *rows, real *to, ptrdiff_t apart) {
    const ptrdiff_t count = box->rows * box->cols, pitch = fc_ceil_div(count, FC_TURN) * FC_TURN;
    if (channels < LANES)
        memset(rows + channels * pitch, 0, (size_t)((LANES - channels) * pitch) * sizeof(real));
    for (ptrdiff_t c = 0; c < channels; c++, from += g->H * g->W)
        for (ptrdiff_t i = 0; i < box->rows; i++)
            for (ptrdiff_t j = 0; j < box->cols; j++)
                rows[c * pitch + i * box->cols + j] = from[i * g->stride_h * g->W + j * g->stride_w];
    FC(turn_rows)(rows, pitch, count, 0, to, apart);
}

/* Input channels first .. of a group's x, `vectors` of LANES, turned to [pixel][vectors][LANES]: 1x1 kernels. */
static void FC(pack_pixels)(const fc_gemm_weight *d, const FC(pixels) *box, const real *x, ptrdiff_t first,
                            ptrdiff_t vectors, real *rows, real *panel) {
    const fc_geometry *g = &d->g;
    const ptrdiff_t plane = g->H * g->W, run = box->rows * box->cols;
    for (ptrdiff_t image = 0; image < box->images; image++)
        for (ptrdiff_t v = 0; v < vectors; v++) {
            const ptrdiff_t c = first + v * LANES, channels = fc_min(LANES, d->channels - c);
            const real *from = x + ((box->n0 + image) * g->C + c) * plane;
            real *to = panel + (image * run * vectors + v) * LANES;
            from += box->p0 * g->stride_h * g->W + box->q0 * g->stride_w;
            if (g->stride_h == 1 && g->stride_w == 1 && g->Q == g->W)
                FC(turn_run)(from, plane, channels, run, rows, to, vectors * LANES);
            else
                FC(turn_strided)(g, box, from, channels, rows, to, vectors * LANES);
        }
}

/* ---- results */

FC_INLINE void FC(put)(real *to, vec v, ptrdiff_t count, int add) {
    if (count >= LANES) {
        FC(store)(to, add ? FC(load)(to) + v : v);
    } else {
        const FC(lanes) some = FC(between)(0, count);
        FC(store_lanes)(to, add ? FC(load_lanes)(to, some) + v : v, some);
    }
}

/* The last LANES numbers of a row, `count` of which are new: the others may be there already, and are added to as
 * zeros. */
FC_INLINE void FC(put_last)(real *to, vec v, ptrdiff_t count, int add) {
    real lanes[FC_VECTOR_BYTES / sizeof(real)];
    FC(store)(lanes, v);
    v = FC(load_masked)(lanes, FC(mask_between)(LANES - count, LANES));
    FC(store)(to, add ? FC(load)(to) + v : v);
}

/* sums[tap][vectors][LANES of output channels], `taps` of them, to rows of w, `step` apart: for `outputs` channels.
 * What is left of a row after whole vectors goes first, as the last LANES of it: on AVX2 a masked store costs as much
 * as ten others. */
static void FC(put_turned)(const real *sums, ptrdiff_t vectors, ptrdiff_t outputs, ptrdiff_t taps, real *w,
                           ptrdiff_t step, int add) {
    const ptrdiff_t apart = vectors * LANES, rest = taps % LANES;
    for (ptrdiff_t k = 0; k < outputs; k += FC_TURN) {
        const ptrdiff_t rows = fc_min(FC_TURN, outputs - k);
        vec out[FC_TURN];
        if (rest && taps > LANES) {
            FC(turn)(sums + (taps - LANES) * apart + k, apart, out);
            for (ptrdiff_t i = 0; i < rows; i++)
                FC(put_last)(w + (k + i) * step + taps - LANES, out[i], rest, add);
        }
        for (ptrdiff_t t = 0; t < taps && (t + LANES <= taps || taps < LANES); t += LANES) {
            FC(turn)(sums + t * apart + k, apart, out);
            for (ptrdiff_t i = 0; i < rows; i++)
                FC(put)(w + (k + i) * step + t, out[i], taps - t, add);
        }
    }
}

/* ---- items */

/* What one item does: vectors and scalars of one group, summed over boxes b0 .. b1 into w (the group's). */
typedef struct {
    ptrdiff_t group, block0, block1, tile0, tile1, b0, b1;
    const real *x, *y; /* the group's first channel */
    real *w;
} FC(share_of_weight);

/* A worker's space. */
typedef struct {
    real *x, *panel, *rows, *tiles;
} FC(weight_space);

/* The rows of w that the sums will go to are asked for while these are being computed. */
FC_INLINE void FC(prefetch_rows)(const real *w, ptrdiff_t step, ptrdiff_t count, ptrdiff_t first, ptrdiff_t end) {
    for (ptrdiff_t k = first; k < end; k++)
        for (ptrdiff_t t = 0; t < count; t += FC_LINE / (ptrdiff_t)sizeof(real))
            __builtin_prefetch(w + k * step + t, 1, 2);
}

static void FC(outputs_in_lanes)(const fc_gemm_weight *d, const FC(share_of_weight) *s, const FC(pixels) *box, int add,
                                 int last, const FC(weight_space) *space) {
    const fc_geometry *g = &d->g;
    const ptrdiff_t window = g->R * g->S;
    FC(products) p = {.images = box->images, .rows = box->rows, .cols = box->cols};
    p.scalar_step = g->stride_w * d->x_element;
    p.scalar_line = g->stride_h * d->x_line;
    p.scalar_image = d->x_image;
    if (d->in_place) {
        p.scalars = s->x + box->n0 * d->x_image + box->p0 * p.scalar_line + box->q0 * p.scalar_step;
    } else {
        const ptrdiff_t first = fc_first_scalar(d, s->tile0), end = fc_first_scalar(d, s->tile1);
        FC(pack_x)(d, box, s->x, first / window, fc_ceil_div(end, window), space->rows, space->x);
        p.scalars = space->x;
    }
    p.vectors = space->panel;
    p.vector_offset = d->vector_offsets;
    const int halved = d->boxes <= FC_WEIGHT_FEW && box->images * box->rows * box->cols > FC_WEIGHT_PIXELS / 2;
    for (ptrdiff_t block = s->block0; block < s->block1; block++) {
        const ptrdiff_t v0 = fc_first_vector(d, block), v = fc_first_vector(d, block + 1) - v0;
        FC(pack_y)(d, box, s->y, v0 * LANES, v, space->rows, space->panel);
        p.out_step = p.vector_step = v * LANES;
        p.vector_line = box->cols * p.vector_step;
        p.vector_image = box->rows * p.vector_line;
        for (ptrdiff_t tile = s->tile0; tile < s->tile1;) {
            const ptrdiff_t stop = fc_min(s->tile1, tile + FC_WEIGHT_TILES_A_TURN), t0 = fc_first_scalar(d, tile);
            const ptrdiff_t taps = fc_first_scalar(d, stop) - t0, first = v0 * LANES;
            const ptrdiff_t outputs = fc_min(v * LANES, d->outputs - first);
            real *w = s->w + first * d->taps + t0;
            p.out = space->tiles + (d->kept ? (v0 * d->scalars + t0 * v) * LANES : 0);
            p.add = d->kept && add;
            const real *const sums = p.out;
            for (const ptrdiff_t start = tile; tile < stop; tile++) {
                const ptrdiff_t t = fc_first_scalar(d, tile), count = fc_first_scalar(d, tile + 1) - t;
                const ptrdiff_t k0 = fc_part(outputs, stop - start, tile - start);
                if (!d->kept || last)
                    FC(prefetch_rows)(w, d->taps, taps, k0, fc_part(outputs, stop - start, tile + 1 - start));
                p.scalar_offset = d->scalar_offsets + t;
                if (halved)
                    FC(run_halves)(count, v, &p);
                else
                    FC(run_products)(count, v, &p);
                p.out += count * p.out_step;
            }
            if (!d->kept || last)
                FC(put_turned)(sums, v, outputs, taps, w, d->taps, add && !d->kept);
        }
    }
}

/* 1x1 kernels: the sums of one register tile are pieces of as many rows of w. Some panels at a time, so that what one
 * of them leaves of a line of w is filled while the line is near; some rows of y under each, which stay in level 2. */
static void FC(inputs_straight)(const fc_gemm_weight *d, const FC(share_of_weight) *s, const FC(pixels) *box, int add,
                                const FC(weight_space) *space) {
    const fc_geometry *g = &d->g;
    const ptrdiff_t run = box->rows * box->cols, apart = run * box->images * d->block * LANES;
    const int halved = d->boxes <= FC_WEIGHT_FEW && box->images * run > FC_WEIGHT_PIXELS / 2;
    FC(products) p = {.images = box->images, .rows = 1, .cols = run, .scalar_step = 1};
    p.scalars = s->y + box->n0 * g->K * g->P * g->Q + box->p0 * g->Q + box->q0;
    p.scalar_image = g->K * g->P * g->Q;
    p.vector_offset = d->vector_offsets;
    for (ptrdiff_t near = s->block0, far; near < s->block1; near = far) {
        far = fc_min(near + FC_WEIGHT_PANELS, s->block1);
        for (ptrdiff_t block = near; block < far; block++) {
            const ptrdiff_t v0 = fc_first_vector(d, block), v = fc_first_vector(d, block + 1) - v0;
            FC(pack_pixels)(d, box, s->x, v0 * LANES, v, space->rows, space->panel + (block - near) * apart);
        }
        for (ptrdiff_t first = s->tile0, end; first < s->tile1; first = end) {
            end = fc_min(first + FC_WEIGHT_TILES_A_PANEL, s->tile1);
            for (ptrdiff_t block = near; block < far; block++) {
                const ptrdiff_t v0 = fc_first_vector(d, block), v = fc_first_vector(d, block + 1) - v0;
                const ptrdiff_t inputs = fc_min(v * LANES, d->channels - v0 * LANES);
                const int whole = inputs == v * LANES;
                p.vectors = space->panel + (block - near) * apart;
                p.vector_step = v * LANES;
                p.vector_image = run * p.vector_step;
                p.add = whole && add;
                p.out_step = whole ? d->taps : v * LANES;
                for (ptrdiff_t tile = first; tile < end; tile++) {
                    const ptrdiff_t k = fc_first_scalar(d, tile), count = fc_first_scalar(d, tile + 1) - k;
                    real *w = s->w + k * d->taps + v0 * LANES;
                    FC(prefetch_rows)(w, d->taps, inputs, 0, count);
                    p.out = whole ? w : space->tiles;
                    p.scalar_offset = d->scalar_offsets + k;
                    if (halved)
                        FC(run_halves)(count, v, &p);
                    else
                        FC(run_products)(count, v, &p);
                    for (ptrdiff_t i = 0; i < count * v && !whole; i++)
                        FC(put)(w + i / v * d->taps + i % v * LANES, FC(load)(p.out + i * LANES),
                                inputs - i % v * LANES, add);
                }
            }
        }
    }
}

/* LANES numbers of one output channel, number `v` of the vectors, to its row of w. */
static void FC(put_vector)(const fc_gemm_weight *d, ptrdiff_t v, vec sums, real *w) {
    const fc_geometry *g = &d->g;
    const ptrdiff_t window = g->R * g->S;
    if (d->lanes == FC_LANES_TAPS) {
        const ptrdiff_t pieces = fc_ceil_div(g->S, LANES), s = v % pieces * LANES;
        FC(put)(w + v / pieces * g->S + s, sums, g->S - s, 0);
    } else if (window == 1) { /* with padding */
        FC(put)(w + v * LANES, sums, d->channels - v * LANES, 0);
    } else {
        const ptrdiff_t c = v / window * LANES, count = fc_min(LANES, d->channels - c);
        real *to = w + c * window + v % window;
        real lanes[FC_VECTOR_BYTES / sizeof(real)];
        FC(store)(lanes, sums);
        for (ptrdiff_t l = 0; l < count; l++)
            to[l * window] = lanes[l];
    }
}

/* The same, the columns in parts, each summed in registers. */
static void FC(run_parts)(ptrdiff_t scalars, ptrdiff_t vectors, const FC(products) *whole) {
    const ptrdiff_t parts = fc_ceil_div(whole->cols, FC_WEIGHT_PIXELS);
    FC(products) p = *whole;
    for (ptrdiff_t part = 0; part < parts; part++) {
        const ptrdiff_t first = fc_part(whole->cols, parts, part);
        p.cols = fc_part(whole->cols, parts, part + 1) - first;
        p.vectors = whole->vectors + first * p.vector_step;
        p.scalars = whole->scalars + first * p.scalar_step;
        FC(run_products)(scalars, vectors, &p);
        p.add = 1;
    }
}

/* The sums stay in `tiles`, [block][tile][output channel][vector][LANES], until the last box. */
static void FC(outputs_in_turn)(const fc_gemm_weight *d, const FC(share_of_weight) *s, const FC(pixels) *box, int add,
                                int last, const FC(weight_space) *space) {
    const fc_geometry *g = &d->g;
    FC(pack_x)(d, box, s->x, 0, d->channels, space->rows, space->x);
    FC(products) p = {.images = box->images, .rows = box->rows, .cols = box->cols, .add = add};
    p.vectors = space->x;
    p.out = space->tiles;
    p.scalars = s->y + box->n0 * g->K * g->P * g->Q + box->p0 * g->Q + box->q0;
    p.vector_step = g->stride_w * d->x_element;
    p.vector_line = g->stride_h * d->x_line;
    p.vector_image = d->x_image;
    p.scalar_step = 1;
    p.scalar_line = g->Q;
    p.scalar_image = g->K * g->P * g->Q;
    for (ptrdiff_t block = s->block0; block < s->block1; block++) {
        const ptrdiff_t v0 = fc_first_vector(d, block), v = fc_first_vector(d, block + 1) - v0;
        p.vector_offset = d->vector_offsets + v0;
        p.out_step = v * LANES;
        for (ptrdiff_t tile = s->tile0; tile < s->tile1; tile++) {
            const ptrdiff_t k = fc_first_scalar(d, tile), count = fc_first_scalar(d, tile + 1) - k;
            p.scalar_offset = d->scalar_offsets + k;
            FC(run_parts)(count, v, &p);
            if (last)
                for (ptrdiff_t i = 0; i < count * v; i++)
                    FC(put_vector)(d, v0 + i % v, FC(load)(p.out + i * LANES), s->w + (k + i / v) * d->taps);
            p.out += count * p.out_step;
        }
    }
}

static void FC(gemm_weight_item)(void *context, ptrdiff_t i, int number) {
    const fc_gemm_weight *d = context;
    const ptrdiff_t vector_part = i % d->vector_parts, scalar_part = i / d->vector_parts % d->scalar_parts;
    const ptrdiff_t rest = i / d->vector_parts / d->scalar_parts, run = rest % d->runs, group = rest / d->runs;
    char *at = d->workers + (size_t)number * fc_gemm_weight_worker_bytes(d);
    const FC(weight_space) space = {(real *)at, (real *)(at + d->x_bytes), (real *)(at + d->x_bytes + d->panel_bytes),
                                    (real *)(at + d->x_bytes + d->panel_bytes + d->rows_bytes)};
    real *w = run ? (real *)d->sums + (run - 1) * d->g.K * d->taps : (real *)d->call->w;
    const FC(share_of_weight) share = {
        group, fc_part(d->blocks, d->vector_parts, vector_part), fc_part(d->blocks, d->vector_parts, vector_part + 1),
        fc_part(d->tiles, d->scalar_parts, scalar_part), fc_part(d->tiles, d->scalar_parts, scalar_part + 1),
        fc_part(d->boxes, d->runs, run), fc_part(d->boxes, d->runs, run + 1),
        (const real *)d->call->x + group * d->channels * d->g.H * d->g.W,
        (const real *)d->call->y + group * d->outputs * d->g.P * d->g.Q, w + group * d->outputs * d->taps};
    for (ptrdiff_t b = share.b0; b < share.b1; b++) {
        const FC(pixels) box = FC(weight_box)(d, b);
        if (d->lanes == FC_LANES_OUTPUTS)
            FC(outputs_in_lanes)(d, &share, &box, b > share.b0, b == share.b1 - 1, &space);
        else if (d->pointwise)
            FC(inputs_straight)(d, &share, &box, b > share.b0, &space);
        else
            FC(outputs_in_turn)(d, &share, &box, b > share.b0, b == share.b1 - 1, &space);
    }
}

static void FC(lay_weight_offsets)(const fc_gemm_weight *d) {
    const fc_geometry *g = &d->g;
    const ptrdiff_t pieces = fc_ceil_div(g->S, LANES);
    if (d->lanes == FC_LANES_OUTPUTS) {
        for (ptrdiff_t v = 0; v < d->vectors; v++)
            d->vector_offsets[v] = v * LANES; /* in a panel */
    } else {
        for (ptrdiff_t v = 0; v < d->vectors && d->pointwise; v++)
            d->vector_offsets[v] = v * LANES;
        for (ptrdiff_t k = 0; k < d->scalars; k++)
            d->scalar_offsets[k] = k * g->P * g->Q;
    }
    if (d->pointwise)
        return;
    ptrdiff_t *to = d->lanes == FC_LANES_OUTPUTS ? d->scalar_offsets : d->vector_offsets;
    const ptrdiff_t planes = d->lanes == FC_LANES_INPUTS ? fc_ceil_div(d->channels, LANES) : d->channels;
    const ptrdiff_t across = d->lanes == FC_LANES_TAPS ? pieces : g->S;
    const ptrdiff_t hop = d->lanes == FC_LANES_TAPS ? LANES : g->dilation_w * d->x_element;
    for (ptrdiff_t c = 0; c < planes; c++)
        for (ptrdiff_t r = 0; r < g->R; r++)
            for (ptrdiff_t s = 0; s < across; s++)
                *to++ = c * d->x_channel + r * g->dilation_h * d->x_line + s * hop;
}

static const char *FC(gemm_backward_weight_unwise)(const fc_geometry *g, int threads) {
    (void)threads;
    return fc_gemm_weight_unwise(g, LANES);
}

static size_t FC(gemm_backward_weight_workspace)(const fc_geometry *g, int threads) {
    threads = fc_worthwhile_threads(g, threads);
    const fc_gemm_weight d = fc_plan_gemm_weight(g, threads, LANES, sizeof(real));
    const size_t shared = d.vector_offsets_bytes + d.scalar_offsets_bytes + d.sums_bytes;
    return shared + (size_t)threads * fc_gemm_weight_worker_bytes(&d);
}

static void FC(gemm_backward_weight)(const fc_call *call) {
    const int threads = fc_worthwhile_threads(&call->geometry, call->threads);
    fc_gemm_weight d = fc_plan_gemm_weight(&call->geometry, threads, LANES, sizeof(real));
    d.call = call;
    d.vector_offsets = call->workspace;
    d.scalar_offsets = (ptrdiff_t *)((char *)d.vector_offsets + d.vector_offsets_bytes);
    d.sums = (char *)d.scalar_offsets + d.scalar_offsets_bytes;
    d.workers = (char *)d.sums + d.sums_bytes;
    FC(lay_weight_offsets)(&d);
    const ptrdiff_t items = d.g.groups * d.vector_parts * d.scalar_parts * d.runs;
    fc_parallel(threads, items, call->keep_denormals, FC(gemm_weight_item), &d);
    real *w = call->w;
    const real *sums = d.sums;
    const ptrdiff_t all = d.g.K * d.taps;
    const fc_fpmode before = fc_fpmode_enter(call->keep_denormals);
    for (ptrdiff_t run = 1; run < d.runs; run++)
        for (ptrdiff_t i = 0; i < all; i++)
            w[i] += *sums++;
    fc_fpmode_leave(before);
}
