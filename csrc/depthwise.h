/* depthwise: forward and backward_input of one filter a channel, of two to seven kernel rows (one: depthwise_row.h).
 *
 *     to[p][q] = sum over sources i, kernel rows r, taps s of
 *                w[r][i, s] * from_i[p * stride + r * step][column(i, s) + q]
 *
 * A plane, or a block of its rows, is packed padded, its column phases apart (pack.h); then tiles go over it. An input
 * row lies under up to R kernel rows, so a tile of RB rows of a vector holds the R weights of a kernel column and loads
 * each of its (RB - 1) * stride + R input vectors once for all of them: RB + 2 R - 1 loads for RB * R multiply-adds,
 * where a tile of one channel (tile.h) needs a load for each, most of them across a cache line.
 *
 * 8 sums are the least that hide the latency of a multiply-add, and no more than that do not reach its rate: in level
 * 1, of the peak (Zen 3, 7x7 over 112 columns), 8 rows of a vector 0.88, 7 rows 0.81, 5 rows of two vectors 0.96. So
 * from 5 kernel rows on tiles are of two vectors, a weight held from the first input row that it meets to the last. 3x3
 * kernels have their 3 columns unrolled and up to 10 rows (0.96; 8 rows in a loop over columns 0.80), and those of
 * stride 1 are not packed at all (depthwise_plane.h).
 *
 * Rows end in a vector that overlaps, and planes in rows that do, so stores are whole: the same numbers once more.
 * backward_input of stride 1 is forward with w turned round. An item is an image, a channel, a block of rows and of
 * columns.
 *
 * Workspace: the columns of the taps, the turned weights (backward_input), a packed block for each worker. */

#ifndef FC_DEPTHWISE
#define FC_DEPTHWISE
enum {
    FC_ROWS_KERNEL = 7,       /* most kernel rows */
    FC_ROWS_TILE = 10,        /* most rows of a tile */
    FC_ROWS_SUMS = 10,        /* most sums of a tile */
    FC_ROWS_BYTES = 16 << 10, /* a packed block: half of level 1 */
    FC_ROWS_COLUMNS = 1024,   /* most columns of a block */
    FC_SOURCE_FAR = 2 << 20,  /* bytes of the source from which a block is asked for while the one before is computed:
                                 7x7 on 768 planes of 28x28, 1.1 times as fast; on 240 of them, 0.97 */
    FC_PLANES_FAR = 6 << 20,  /* the same of source and result, where planes are not packed */
    FC_PLANE_BYTES = 20 << 10, /* of the sources that a tile of sums goes over at a time, as far as they are narrow */
    FC_PLANE_WIDE = 64         /* columns */
};

static const char *depthwise_unsupported(const fc_geometry *g) {
    if (g->C != g->groups)
        return "more than one input channel a group";
    if (g->R > FC_ROWS_KERNEL)
        return "more than 7 kernel rows";
    return NULL;
}

static const char *depthwise_unsupported_rows(const fc_geometry *g) {
    if (g->stride_h > 2 || (g->stride_h == 2 && (g->dilation_h > 1 || g->R % 2 == 0)))
        return "rows more than 2 apart, or 2 apart under a dilated or even kernel";
    return depthwise_unsupported(g);
}

static const char *depthwise_unsupported_forward(const fc_geometry *g) {
    if (g->R == 1)
        return depthwise_one_row(g) ? depthwise_unsupported(g) : "one kernel row, strided or padded above";
    return depthwise_unsupported_rows(g);
}

static inline int depthwise_strided(const fc_geometry *g) {
    return g->stride_h == 2 && g->stride_w == 2 && g->dilation_h == 1 && g->dilation_w == 1 && g->K == g->groups &&
           g->R >= 2 && g->S >= 2 && g->W <= FC_ROWS_COLUMNS;
}

static const char *depthwise_unsupported_backward_input(const fc_geometry *g) {
    if (g->stride_h > 1 || g->stride_w > 1) {
        if (!depthwise_strided(g))
            return "strided, but not by 2 on both axes with one output a channel";
        return depthwise_unsupported(g);
    }
    if (g->R == 1 && !(depthwise_one_row(g) && g->K == g->groups))
        return "one kernel row, padded above or with several outputs a channel";
    return depthwise_unsupported(g);
}

/* Whether planes are read where they are (depthwise_plane.h), by vectors of so many lanes. */
static int depthwise_in_place(const fc_geometry *g, fc_operation operation, ptrdiff_t lanes) {
    if (g->R != 3 || g->S != 3 || g->stride_h != 1 || g->stride_w != 1 || g->dilation_h != 1 || g->dilation_w != 1 ||
        (operation == FC_FORWARD && g->K != g->groups))
        return 0;
    const int turned = operation == FC_BACKWARD_INPUT; /* from y to x */
    const ptrdiff_t above = turned ? 2 - g->pad_h : g->pad_h, left = turned ? 2 - g->pad_w : g->pad_w;
    const ptrdiff_t more_h = turned ? g->H - g->P : g->P - g->H, more_w = turned ? g->W - g->Q : g->Q - g->W;
    const ptrdiff_t below = more_h + 2 - above, right = more_w + 2 - left;
    return above >= 0 && left >= 0 && fc_max(above, left) <= 2 && fc_max(below, right) <= 2 &&
           (turned ? g->P : g->H) >= 3 && fc_min(g->W, g->Q) >= lanes;
}

static const char *depthwise_unwise_forward(const fc_geometry *g, int threads) {
    (void)threads;
    if (g->groups == 1 && direct_one_row(g))
        return "one channel to several outputs: direct summation shares its pixels among them";
    return g->R == 1 && g->Q < FC_SHORT_ROW ? "rows so short that several should share a vector" : NULL;
}

static const char *depthwise_unwise_backward_input(const fc_geometry *g, int threads) {
    (void)threads;
    if (g->R == 1 && g->W < FC_SHORT_ROW)
        return "rows so short that several should share a vector";
    if (g->K / g->groups > 12 && !depthwise_in_place(g, FC_BACKWARD_INPUT, FC_VECTOR_BYTES / 4))
        return "more than 12 outputs a channel: they are packed apart";
    return NULL;
}

/* Tiles of which there are, a bit for each number of rows: of one vector, of two, and of 3x3 kernels. Two vectors where
 * a tile of one could not have more than 8 sums beside the weights. */
typedef enum { FC_ONE_VECTOR, FC_TWO_VECTORS, FC_THREE_BY_THREE } fc_row_shape;

static int depthwise_sizes(ptrdiff_t R, ptrdiff_t stride, fc_row_shape shape) {
    if (shape == FC_TWO_VECTORS)
        return 1 << 4 | 1 << 5;
    if (shape == FC_THREE_BY_THREE)
        return 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10;
    if (R % 2 == 0 || R == 1)
        return 1 << 1 | 1 << 2 | 1 << 4 | 1 << 8;
    if (stride == 2)
        return 1 << 1 | 1 << 2 | 1 << 4 | 1 << 7 | 1 << 8;
    return 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8;
}

/* Rows of the next tile where `tiles` are to cover `left` of `rows` rows: the least of `sizes` that is enough, so that
 * tiles are of nearly one size. The last one may overlap the one before. */
static ptrdiff_t depthwise_tile_rows(int sizes, ptrdiff_t left, ptrdiff_t tiles, ptrdiff_t rows) {
    ptrdiff_t size = fc_ceil_div(left, tiles), most = fc_min(rows, FC_ROWS_TILE);
    while (size < most && !(sizes >> size & 1))
        size++;
    while (!(sizes >> size & 1))
        size--;
    return size;
}
#endif

/* What a tile works on. */
typedef struct {
    const real *x;
    ptrdiff_t x_row, taps;
    const ptrdiff_t *column;
    const real *w; /* R rows of `taps` weights */
    real *y;
    ptrdiff_t y_row;
    const real *bias; /* NULL, or one number, or as many as y where bias_row is not 0 */
    ptrdiff_t bias_row;
    ptrdiff_t cols;
} FC(row_run);

/* One column of the kernel: R weights, `taps` apart, times the rows below x. PART: only lanes `inside` are read. */
FC_INLINE void FC(row_tap)(const int R, const int STRIDE, const int RB, const int VB, const int PART, const real *x,
                           ptrdiff_t x_row, FC(lanes) inside, const real *w, ptrdiff_t taps, vec *sum) {
    vec weight[FC_ROWS_KERNEL];
    if (VB == 1)
        FC_UNROLL for (int r = 0; r < R; r++) weight[r] = FC(splat)(w[r * taps]);
    FC_UNROLL for (int i = 0; i < (RB - 1) * STRIDE + R; i++, x += x_row) {
        if (VB > 1 && i < R) /* not before: so RB weights are held and no more */
            weight[i] = FC(splat)(w[i * taps]);
        FC_UNROLL for (int v = 0; v < VB; v++) {
            const vec pixels = PART ? FC(load_lanes)(x + v * LANES, inside) : FC(load)(x + v * LANES);
            FC_UNROLL for (int r = 0; r < R; r++)
                if (i >= r && (i - r) % STRIDE == 0 && (i - r) / STRIDE < RB)
                    sum[(i - r) / STRIDE * VB + v] += weight[r] * pixels;
        }
    }
}

/* Sums to their place. */
FC_INLINE void FC(row_store)(const int RB, const int VB, vec *sum, const real *bias, ptrdiff_t bias_row, real *y,
                             ptrdiff_t y_row) {
    if (bias)
        FC_UNROLL for (int i = 0; i < RB; i++)
            FC_UNROLL for (int v = 0; v < VB; v++)
                sum[i * VB + v] += bias_row ? FC(load)(bias + i * bias_row + v * LANES) : FC(splat)(*bias);
    FC_UNROLL for (int i = 0; i < RB; i++)
        FC_UNROLL for (int v = 0; v < VB; v++) FC(store)(y + i * y_row + v * LANES, sum[i * VB + v]);
}

/* S: taps of a row, or 0 where their number is not known. */
FC_INLINE void FC(row_tile)(const int R, const int S, const int STRIDE, const int RB, const int VB,
                            const FC(row_run) *run) {
    const ptrdiff_t x_row = run->x_row, y_row = run->y_row, bias_row = run->bias_row, taps = S ? S : run->taps;
    const ptrdiff_t *const column = run->column, width = VB * LANES, last = run->cols - width;
    for (ptrdiff_t j = 0; j == 0 || j < last + width; j += width) {
        const ptrdiff_t at = j <= last || j == 0 ? j : last;
        const real *const x = run->x + at, *const w = run->w;
        vec sum[FC_ROWS_SUMS];
        FC_UNROLL for (int i = 0; i < RB * VB; i++) sum[i] = (vec){0};
        if (S)
            FC_UNROLL for (int t = 0; t < S; t++)
                FC(row_tap)(R, STRIDE, RB, VB, 0, x + column[t], x_row, FC(between)(0, LANES), w + t, taps, sum);
        else
            FC_ROLLED for (ptrdiff_t t = 0; t < taps; t++)
                FC(row_tap)(R, STRIDE, RB, VB, 0, x + column[t], x_row, FC(between)(0, LANES), w + t, taps, sum);
        real *y = run->y + at;
        const real *bias = run->bias ? run->bias + (bias_row ? at : 0) : NULL;
        if (VB == 1 && last < 0) {
            const FC(lanes) part = FC(between)(0, run->cols);
            FC_UNROLL for (int i = 0; i < RB; i++) {
                if (bias)
                    sum[i] += bias_row ? FC(load_lanes)(bias + i * bias_row, part) : FC(splat)(*bias);
                FC(store_lanes)(y + i * y_row, sum[i], part);
            }
            return;
        }
        FC(row_store)(RB, VB, sum, bias, bias_row, y, y_row);
    }
}

/* One function for each number of kernel rows and stride, a case for each tile: literal sizes. */
FC_NOINLINE void FC(row_tiles_1)(ptrdiff_t rows, const FC(row_run) *run) {
    switch (rows) {
    case 1: FC(row_tile)(1, 0, 1, 1, 1, run); break;
    case 2: FC(row_tile)(1, 0, 1, 2, 1, run); break;
    case 4: FC(row_tile)(1, 0, 1, 4, 1, run); break;
    case 8: FC(row_tile)(1, 0, 1, 8, 1, run); break;
    }
}

FC_NOINLINE void FC(row_tiles_2)(ptrdiff_t rows, const FC(row_run) *run) {
    switch (rows) {
    case 1: FC(row_tile)(2, 0, 1, 1, 1, run); break;
    case 2: FC(row_tile)(2, 0, 1, 2, 1, run); break;
    case 4: FC(row_tile)(2, 0, 1, 4, 1, run); break;
    case 8: FC(row_tile)(2, 0, 1, 8, 1, run); break;
    }
}

FC_NOINLINE void FC(row_tiles_3)(ptrdiff_t rows, const FC(row_run) *run) {
    switch (rows) {
    case 1: FC(row_tile)(3, 0, 1, 1, 1, run); break;
    case 2: FC(row_tile)(3, 0, 1, 2, 1, run); break;
    case 4: FC(row_tile)(3, 0, 1, 4, 1, run); break;
    case 5: FC(row_tile)(3, 0, 1, 5, 1, run); break;
    case 6: FC(row_tile)(3, 0, 1, 6, 1, run); break;
    case 7: FC(row_tile)(3, 0, 1, 7, 1, run); break;
    case 8: FC(row_tile)(3, 0, 1, 8, 1, run); break;
    }
}

FC_NOINLINE void FC(row_tiles_3x3)(ptrdiff_t rows, const FC(row_run) *run) {
    switch (rows) {
    case 1: FC(row_tile)(3, 3, 1, 1, 1, run); break;
    case 2: FC(row_tile)(3, 3, 1, 2, 1, run); break;
    case 4: FC(row_tile)(3, 3, 1, 4, 1, run); break;
    case 5: FC(row_tile)(3, 3, 1, 5, 1, run); break;
    case 6: FC(row_tile)(3, 3, 1, 6, 1, run); break;
    case 7: FC(row_tile)(3, 3, 1, 7, 1, run); break;
    case 8: FC(row_tile)(3, 3, 1, 8, 1, run); break;
    case 9: FC(row_tile)(3, 3, 1, 9, 1, run); break;
    case 10: FC(row_tile)(3, 3, 1, 10, 1, run); break;
    }
}

FC_NOINLINE void FC(row_tiles_4)(ptrdiff_t rows, const FC(row_run) *run) {
    switch (rows) {
    case 1: FC(row_tile)(4, 0, 1, 1, 1, run); break;
    case 2: FC(row_tile)(4, 0, 1, 2, 1, run); break;
    case 4: FC(row_tile)(4, 0, 1, 4, 1, run); break;
    case 8: FC(row_tile)(4, 0, 1, 8, 1, run); break;
    }
}

FC_NOINLINE void FC(row_tiles_5)(ptrdiff_t rows, ptrdiff_t vectors, const FC(row_run) *run) {
    switch (10 * (vectors - 1) + rows) {
    case 1: FC(row_tile)(5, 0, 1, 1, 1, run); break;
    case 2: FC(row_tile)(5, 0, 1, 2, 1, run); break;
    case 4: FC(row_tile)(5, 0, 1, 4, 1, run); break;
    case 5: FC(row_tile)(5, 0, 1, 5, 1, run); break;
    case 6: FC(row_tile)(5, 0, 1, 6, 1, run); break;
    case 7: FC(row_tile)(5, 0, 1, 7, 1, run); break;
    case 8: FC(row_tile)(5, 0, 1, 8, 1, run); break;
    case 14: FC(row_tile)(5, 0, 1, 4, 2, run); break;
    case 15: FC(row_tile)(5, 0, 1, 5, 2, run); break;
    }
}

FC_NOINLINE void FC(row_tiles_6)(ptrdiff_t rows, ptrdiff_t vectors, const FC(row_run) *run) {
    switch (10 * (vectors - 1) + rows) {
    case 1: FC(row_tile)(6, 0, 1, 1, 1, run); break;
    case 2: FC(row_tile)(6, 0, 1, 2, 1, run); break;
    case 4: FC(row_tile)(6, 0, 1, 4, 1, run); break;
    case 8: FC(row_tile)(6, 0, 1, 8, 1, run); break;
    case 14: FC(row_tile)(6, 0, 1, 4, 2, run); break;
    case 15: FC(row_tile)(6, 0, 1, 5, 2, run); break;
    }
}

FC_NOINLINE void FC(row_tiles_7)(ptrdiff_t rows, ptrdiff_t vectors, const FC(row_run) *run) {
    switch (10 * (vectors - 1) + rows) {
    case 1: FC(row_tile)(7, 0, 1, 1, 1, run); break;
    case 2: FC(row_tile)(7, 0, 1, 2, 1, run); break;
    case 4: FC(row_tile)(7, 0, 1, 4, 1, run); break;
    case 5: FC(row_tile)(7, 0, 1, 5, 1, run); break;
    case 6: FC(row_tile)(7, 0, 1, 6, 1, run); break;
    case 7: FC(row_tile)(7, 0, 1, 7, 1, run); break;
    case 8: FC(row_tile)(7, 0, 1, 8, 1, run); break;
    case 14: FC(row_tile)(7, 0, 1, 4, 2, run); break;
    case 15: FC(row_tile)(7, 0, 1, 5, 2, run); break;
    }
}

FC_NOINLINE void FC(row_tiles_3_apart)(ptrdiff_t rows, const FC(row_run) *run) {
    switch (rows) {
    case 1: FC(row_tile)(3, 0, 2, 1, 1, run); break;
    case 2: FC(row_tile)(3, 0, 2, 2, 1, run); break;
    case 4: FC(row_tile)(3, 0, 2, 4, 1, run); break;
    case 7: FC(row_tile)(3, 0, 2, 7, 1, run); break;
    case 8: FC(row_tile)(3, 0, 2, 8, 1, run); break;
    }
}

FC_NOINLINE void FC(row_tiles_5_apart)(ptrdiff_t rows, const FC(row_run) *run) {
    switch (rows) {
    case 1: FC(row_tile)(5, 0, 2, 1, 1, run); break;
    case 2: FC(row_tile)(5, 0, 2, 2, 1, run); break;
    case 4: FC(row_tile)(5, 0, 2, 4, 1, run); break;
    case 7: FC(row_tile)(5, 0, 2, 7, 1, run); break;
    case 8: FC(row_tile)(5, 0, 2, 8, 1, run); break;
    }
}

FC_NOINLINE void FC(row_tiles_7_apart)(ptrdiff_t rows, const FC(row_run) *run) {
    switch (rows) {
    case 1: FC(row_tile)(7, 0, 2, 1, 1, run); break;
    case 2: FC(row_tile)(7, 0, 2, 2, 1, run); break;
    case 4: FC(row_tile)(7, 0, 2, 4, 1, run); break;
    case 7: FC(row_tile)(7, 0, 2, 7, 1, run); break;
    case 8: FC(row_tile)(7, 0, 2, 8, 1, run); break;
    }
}

static void FC(run_row_tile)(ptrdiff_t R, ptrdiff_t stride, fc_row_shape shape, ptrdiff_t rows,
                             const FC(row_run) *run) {
    const ptrdiff_t vectors = shape == FC_TWO_VECTORS ? 2 : 1;
    if (shape == FC_THREE_BY_THREE) {
        FC(row_tiles_3x3)(rows, run);
        return;
    }
    switch (8 * stride + R) {
    case 8 + 1: FC(row_tiles_1)(rows, run); break; /* phases of a stride */
    case 8 + 2: FC(row_tiles_2)(rows, run); break;
    case 8 + 3: FC(row_tiles_3)(rows, run); break;
    case 8 + 4: FC(row_tiles_4)(rows, run); break;
    case 8 + 5: FC(row_tiles_5)(rows, vectors, run); break;
    case 8 + 6: FC(row_tiles_6)(rows, vectors, run); break;
    case 8 + 7: FC(row_tiles_7)(rows, vectors, run); break;
    case 16 + 3: FC(row_tiles_3_apart)(rows, run); break;
    case 16 + 5: FC(row_tiles_5_apart)(rows, run); break;
    case 16 + 7: FC(row_tiles_7_apart)(rows, run); break;
    }
}

/* ---- plan */

typedef struct {
    const fc_call *call;
    fc_geometry g;
    fc_stencil s;                      /* how one source plane is packed: its rows as they are, its columns in phases */
    ptrdiff_t sources, outputs;        /* planes that an item reads and writes */
    ptrdiff_t stride, step;            /* rows of the source between rows of the grid, and between kernel rows */
    ptrdiff_t taps;                    /* of one kernel row, all sources */
    ptrdiff_t block_rows, blocks_h, block_cols, blocks_w;
    int far;                           /* the source does not stay near the core from one call to the next */
    ptrdiff_t margin;                  /* 0, or where pixels begin in packed rows whose ends stay zero */
    const real *from, *w;
    real *to;
    ptrdiff_t *column;
    real *weights;
    char *boxes;
    size_t column_bytes, weights_bytes, box_bytes;
} FC(depthwise);

static ptrdiff_t FC(packed_rows)(const FC(depthwise) *d, ptrdiff_t rows) {
    return (rows - 1) * d->stride + (d->g.R - 1) * d->step + 1;
}

static FC(depthwise) FC(plan_depthwise)(const fc_geometry *g, fc_operation operation, int threads) {
    FC(depthwise) d = {0};
    d.g = *g;
    const ptrdiff_t reach_h = (g->R - 1) * g->dilation_h, reach_w = (g->S - 1) * g->dilation_w;
    fc_stencil *s = &d.s;
    if (operation == FC_FORWARD) {
        *s = (fc_stencil){.H = g->H, .W = g->W, .rows = g->P, .cols = g->Q, .pad_h = g->pad_h, .pad_w = g->pad_w};
        s->phases_w = fc_min(g->S, g->stride_w / fc_gcd(g->stride_w, g->dilation_w));
        d.sources = 1;
        d.outputs = g->K / g->groups;
    } else {
        *s = (fc_stencil){.H = g->P, .W = g->Q, .rows = g->H, .cols = g->W};
        s->pad_h = reach_h - g->pad_h;
        s->pad_w = reach_w - g->pad_w;
        s->phases_w = 1;
        d.sources = g->K / g->groups;
        d.outputs = 1;
        d.weights_bytes = fc_round_up((size_t)(g->K * g->R * g->S) * sizeof(real));
    }
    s->src_row = s->W;
    s->src_channel = s->H * s->W;
    s->channels = d.sources;
    s->dst_row = s->cols;
    s->dst_channel = s->rows * s->cols;
    s->stride_h = s->step_h = s->phases_h = 1;
    s->stride_w = g->stride_w;
    s->step_w = g->dilation_w;
    d.stride = g->stride_h;
    d.step = g->dilation_h;
    d.taps = d.sources * g->S;
    d.column_bytes = fc_round_up((size_t)d.taps * sizeof(ptrdiff_t));

    d.blocks_w = fc_ceil_div(s->cols, FC_ROWS_COLUMNS);
    d.block_cols = fc_ceil_div(s->cols, d.blocks_w);
    s->pitch = fc_ceil_div(d.block_cols + reach_w / g->stride_w, LANES) * LANES;
    const ptrdiff_t row_bytes = d.sources * s->phases_w * s->pitch * (ptrdiff_t)sizeof(real);
    const ptrdiff_t least = fc_max(FC_ROWS_TILE, reach_h);
    ptrdiff_t most = (FC_ROWS_BYTES / row_bytes - reach_h - 1) / d.stride + 1;
    const ptrdiff_t others = g->N * g->groups * d.blocks_w;
    if (threads > 1 && others < 4 * threads)
        most = fc_min(most, fc_ceil_div(s->rows, fc_ceil_div(4 * (ptrdiff_t)threads, others)));
    d.block_rows = fc_clip(most, least, fc_max(least, s->rows));
    d.blocks_h = fc_ceil_div(s->rows, d.block_rows);
    d.block_rows = fc_ceil_div(s->rows, d.blocks_h);
    const ptrdiff_t source_bytes = g->N * g->groups * s->src_channel * (ptrdiff_t)sizeof(real);
    d.far = d.sources == 1 && d.blocks_w == 1 && source_bytes > FC_SOURCE_FAR;
    s->packed_rows = FC(packed_rows)(&d, d.block_rows);
    s->plane = s->packed_rows * s->pitch + LANES;
    s->channel = s->phases_w * s->plane;
    const ptrdiff_t inside = fc_min(s->W, s->pitch - s->pad_w);
    if (s->phases_w == 1 && s->stride_w == 1 && d.blocks_w == 1 && s->pad_w > 0 && s->pad_h >= 0 && inside >= LANES)
        d.margin = fc_ceil_div(s->pad_w, LANES) * LANES;
    d.box_bytes = fc_round_up((size_t)(d.sources * s->channel + reach_w + 2 * LANES) * sizeof(real));
    return d;
}

/* ---- items */

/* Tiles of one shape down `rows` rows whose input is shared. */
static void FC(row_column)(ptrdiff_t R, ptrdiff_t stride, fc_row_shape shape, FC(row_run) run, ptrdiff_t rows) {
    const ptrdiff_t x_row = stride * run.x_row;
    const real *const x = run.x, *const bias = run.bias;
    real *const y = run.y;
    const int sizes = depthwise_sizes(R, stride, shape);
    const ptrdiff_t most = shape == FC_ONE_VECTOR ? 8 : shape == FC_TWO_VECTORS ? 5 : 10;
    ptrdiff_t tiles = fc_ceil_div(rows, most);
    for (ptrdiff_t i = 0, size; i < rows; i += size, tiles -= tiles > 1) {
        size = depthwise_tile_rows(sizes, rows - i, tiles, rows);
        const ptrdiff_t row = fc_min(i, rows - size);
        run.x = x + row * x_row;
        run.y = y + row * run.y_row;
        run.bias = bias ? bias + row * run.bias_row : NULL;
        FC(run_row_tile)(R, stride, shape, size, &run);
    }
}

/* The same over all columns: two vectors at a time where that is faster, and a last one if their number is odd. */
static void FC(row_block)(ptrdiff_t R, ptrdiff_t stride, FC(row_run) run, ptrdiff_t rows) {
    const ptrdiff_t vectors = fc_ceil_div(run.cols, LANES), odd = vectors % 2;
    if (stride == 1 && R >= 5 && rows >= 4 && run.cols >= 2 * LANES) {
        FC(row_run) pairs = run;
        pairs.cols = odd ? (vectors - 1) * LANES : run.cols;
        FC(row_column)(R, stride, FC_TWO_VECTORS, pairs, rows);
        if (!odd)
            return;
        const ptrdiff_t last = run.cols - LANES;
        run.cols = LANES;
        run.x += last;
        run.y += last;
        if (run.bias && run.bias_row)
            run.bias += last;
    }
    FC(row_column)(R, stride, stride == 1 && R == 3 && run.taps == 3 ? FC_THREE_BY_THREE : FC_ONE_VECTOR, run, rows);
}

/* The margins of the boxes of `workers` workers, the boxes `step` bytes apart. */
static void FC(clear_margins)(const FC(depthwise) *d, char *boxes, size_t step, int workers) {
    for (int i = 0; d->margin && i < workers; i++)
        memset(boxes + (size_t)i * step, 0, d->box_bytes);
}

/* Packing where margins are zero already: pixels alone are copied, whole vectors of them, a row's last one overlapping.
 * By rows: by columns of vectors, as pack_box does, it is as slow as that. Rows above and below the plane have to be
 * cleared only where another block put pixels there. */
static void FC(pack_between_margins)(const FC(depthwise) *d, const real *from, ptrdiff_t i0, ptrdiff_t rows,
                                     real *box) {
    const fc_stencil *s = &d->s;
    const ptrdiff_t pitch = s->pitch, W = fc_min(s->W, pitch - s->pad_w), last = W - LANES;
    const ptrdiff_t first = fc_clip(s->pad_h - i0, 0, rows), end = fc_clip(s->H + s->pad_h - i0, first, rows);
    for (ptrdiff_t c = 0; c < s->channels; c++) {
        const real *const x = from + c * s->src_channel + (i0 + first - s->pad_h) * s->src_row;
        real *const to = box + c * s->channel + s->pad_w;
        const real *row = x;
        real *at = to + first * pitch;
        for (ptrdiff_t i = first; i < end; i++, row += s->src_row, at += pitch) {
            const vec tail = FC(load)(row + last);
            for (ptrdiff_t j = 0; j < last; j += LANES)
                FC(store)(at + j, FC(load)(row + j));
            FC(store)(at + last, tail);
        }
        for (ptrdiff_t i = 0; d->blocks_h > 1 && i < rows; i++)
            if (i < first || i >= end)
                memset(to + i * pitch, 0, (size_t)W * sizeof(real));
    }
}

/* Packs what `rows` rows of the grid need, from packed row i0 and packed column j0 on; where that begins. Margins that
 * stay make the whole call 1.05 to 1.1 times as fast (5x5 and 7x7 on planes of 28x28, Zen 3). */
static const real *FC(pack_depthwise)(const FC(depthwise) *d, const real *from, ptrdiff_t i0, ptrdiff_t j0,
                                      ptrdiff_t rows, real *box) {
    if (!d->margin) {
        FC(pack_box)(&d->s, from, i0, j0, FC(packed_rows)(d, rows), box);
        return box;
    }
    box += d->margin - d->s.pad_w; /* so that copies are aligned */
    FC(pack_between_margins)(d, from, i0, FC(packed_rows)(d, rows), box);
    return box;
}

static void FC(depthwise_item)(void *context, ptrdiff_t i, int number) {
    const FC(depthwise) *d = context;
    const fc_stencil *s = &d->s;
    const ptrdiff_t j0 = i % d->blocks_w * d->block_cols, cols = fc_min(d->block_cols, s->cols - j0);
    i /= d->blocks_w;
    const ptrdiff_t i0 = i % d->blocks_h * d->block_rows, rows = fc_min(d->block_rows, s->rows - i0);
    const ptrdiff_t plane = i / d->blocks_h, channel = plane % d->g.groups, R = d->g.R;
    const real *box = FC(pack_depthwise)(d, d->from + plane * d->sources * s->src_channel, i0 * d->stride, j0, rows,
                                         (real *)(d->boxes + (size_t)number * d->box_bytes));
    if (d->far) {
        const ptrdiff_t below = rows * d->stride * s->W;
        const real *next = d->from + plane * s->src_channel + i0 * d->stride * s->W + below;
        for (ptrdiff_t at = 0; at < below; at += FC_LINE / (ptrdiff_t)sizeof(real))
            __builtin_prefetch(next + at, 0, 3);
    }
    const real *bias = d->call->bias;
    for (ptrdiff_t o = 0; o < d->outputs; o++) {
        const ptrdiff_t k = channel * d->outputs + o;
        FC(row_run) run = {.column = d->column, .taps = d->taps, .cols = cols, .w = d->w + k * R * d->taps};
        real *to = d->to + (plane * d->outputs + o) * s->dst_channel + i0 * s->dst_row + j0;
        const real *own_bias = bias && d->call->bias_per_position ? bias + k * s->dst_channel + i0 * s->dst_row + j0
                               : bias                             ? bias + k
                                                                  : NULL;
        for (ptrdiff_t first = 0; first < fc_min(d->step, rows); first++) { /* rows `step` apart share their input */
            run.x = box + first * s->pitch;
            run.x_row = d->step * s->pitch;
            run.y = to + first * s->dst_row;
            run.y_row = d->step * s->dst_row;
            run.bias = own_bias;
            if (bias && d->call->bias_per_position) {
                run.bias = own_bias + first * s->dst_row;
                run.bias_row = run.y_row;
            }
            FC(row_block)(R, d->stride, run, fc_ceil_div(rows - first, d->step));
        }
    }
}

#include "depthwise_plane.h"
#include "depthwise_pairs.h"
#include "depthwise_strided.h"

/* ---- run */

static size_t FC(depthwise_bytes)(const fc_geometry *g, fc_operation operation, int threads) {
    threads = fc_worthwhile_threads(g, threads);
    if (g->R == 1)
        return FC(depthwise_row_bytes)(g, operation, threads);
    if (operation == FC_BACKWARD_INPUT && g->stride_h == 2)
        return FC(depthwise_strided_bytes)(g, threads);
    if (operation == FC_BACKWARD_INPUT && depthwise_in_place(g, operation, LANES)) /* forward may have to pack */
        return FC(depthwise_plane_bytes)(g);
    const FC(depthwise) d = FC(plan_depthwise)(g, operation, threads);
    return d.column_bytes + d.weights_bytes + (size_t)threads * d.box_bytes;
}
static size_t FC(depthwise_forward_workspace)(const fc_geometry *g, int threads) {
    return FC(depthwise_bytes)(g, FC_FORWARD, threads);
}
static size_t FC(depthwise_backward_input_workspace)(const fc_geometry *g, int threads) {
    return FC(depthwise_bytes)(g, FC_BACKWARD_INPUT, threads);
}

static FC(depthwise) FC(begin_depthwise)(const fc_call *call, fc_operation operation, int threads) {
    FC(depthwise) d = FC(plan_depthwise)(&call->geometry, operation, threads);
    const fc_stencil *s = &d.s;
    char *at = call->workspace;
    d.call = call;
    d.column = (ptrdiff_t *)at;
    d.weights = (real *)(at + d.column_bytes);
    d.boxes = at + d.column_bytes + d.weights_bytes;
    for (ptrdiff_t i = 0, t = 0; i < d.sources; i++)
        for (ptrdiff_t q = 0; q < d.g.S; q++)
            d.column[t++] = i * s->channel + q % s->phases_w * s->plane + q * s->step_w / s->stride_w;
    return d;
}

static void FC(depthwise_forward)(const fc_call *call) {
    const int threads = fc_worthwhile_threads(&call->geometry, call->threads);
    if (call->geometry.R == 1) {
        FC(depthwise_row_run)(call, FC_FORWARD, threads);
        return;
    }
    if (FC(depthwise_pairs_run)(call, FC_FORWARD, threads))
        return;
    if (depthwise_in_place(&call->geometry, FC_FORWARD, LANES) && FC(all_finite)(call->w, call->geometry.K * 9)) {
        FC(depthwise_plane_run)(call, FC_FORWARD, threads);
        return;
    }
    FC(depthwise) d = FC(begin_depthwise)(call, FC_FORWARD, threads);
    d.from = call->x;
    d.to = call->y;
    d.w = call->w;
    FC(clear_margins)(&d, d.boxes, d.box_bytes, threads);
    fc_parallel(threads, d.g.N * d.g.groups * d.blocks_h * d.blocks_w, call->keep_denormals, FC(depthwise_item), &d);
}

static void FC(depthwise_backward_input)(const fc_call *call) {
    const int threads = fc_worthwhile_threads(&call->geometry, call->threads);
    if (call->geometry.R == 1) {
        FC(depthwise_row_run)(call, FC_BACKWARD_INPUT, threads);
        return;
    }
    if (call->geometry.stride_h == 2) {
        if (!FC(depthwise_pairs_run)(call, FC_BACKWARD_INPUT, threads))
            FC(depthwise_strided_run)(call, threads);
        return;
    }
    if (depthwise_in_place(&call->geometry, FC_BACKWARD_INPUT, LANES)) {
        FC(depthwise_plane_run)(call, FC_BACKWARD_INPUT, threads);
        return;
    }
    FC(depthwise) d = FC(begin_depthwise)(call, FC_BACKWARD_INPUT, threads);
    if (!FC(turn_kernels)(call->w, d.g.groups, d.sources, d.g.R, d.g.S, d.weights)) {
        FC(small_backward_input)(call);
        return;
    }
    d.from = call->y;
    d.to = call->x;
    d.w = d.weights;
    FC(clear_margins)(&d, d.boxes, d.box_bytes, threads);
    fc_parallel(threads, d.g.N * d.g.groups * d.blocks_h * d.blocks_w, call->keep_denormals, FC(depthwise_item), &d);
}
