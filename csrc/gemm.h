/* gemm: forward and backward_input as matrix products, without an im2col matrix.
 *
 *     out[m][pixel] = sum over k of  a[m][k] * b[k][pixel]        k = (channel, kernel row, kernel column)
 *
 * Pixels are in the lanes and run over rows and images alike, so that small planes of a batch fill the vectors. Goto
 * and van de Geijn 2008 (https://doi.org/10.1145/1356052.1356053) give the idea: some steps of k of up to 3 vectors of
 * pixels, a panel, are packed straight from the image, padding, stride and dilation applied on the way; the panel stays
 * in level 1 while the rows of a pass over it (gemm_tile.h), and the weights of those rows stay in level 2.
 *
 * forward reads the weights where they are: a row of w, (C/groups, R, S), is a row of a. backward_input is one such
 * product a stride phase (stencil.h), whose weights are copied to panels of rows before. Where a panel's pixels lie
 * side by side in the result, sums go straight there; else (ends of images, phases of a stride) by way of a buffer that
 * a worker holds for its block of pixels.
 *
 * Workspace: the weights of backward_input; the pixels that a strided 1x1 kernel reads; for each worker a few packed
 * panels, the sums of one block, and tables of its pixels. */
#ifndef FC_GEMM_H
#define FC_GEMM_H

enum {
    FC_GEMM_PIXELS = 48, /* channels of a 1x1 kernel from which panels win: 64 to 256 channels 1.24 times, 32 0.97 */
    FC_GEMM_DEPTH = FC_VECTOR_BYTES == 32 ? 192 : 128, /* steps of k summed in registers: a panel of 12 to 24 KB */
    FC_GEMM_TAPS = 256,           /* most elements of a kernel */
    FC_GEMM_WEIGHTS = 320 << 10,  /* bytes of the weights that pass over a panel: they stay in level 2 */
    FC_GEMM_SUMS_BYTES = 128 << 10,
    FC_GEMM_LAZY_VECTORS = 32,    /* backward_input: pixels up to which all are one block */
    FC_GEMM_AHEAD = 4,            /* channels from the one that is being packed to the one that is asked for */
    FC_GEMM_TOGETHER = 4,         /* panels a row panel passes over at a time, its weights in level 1 */
    FC_GEMM_BLOCK_VECTORS = 64
};

/* One product: down x across taps. Pixel (i, j) of rows x cols reads, for tap (r, s), source row
 * i * stride_h + from_h + r * step_h, columns alike, and is written to row to_h + i * hop_h. */
typedef struct {
    ptrdiff_t down, across, step_h, step_w, stride_h, stride_w, from_h, from_w;
    ptrdiff_t rows, cols, to_h, to_w, hop_h, hop_w;
    ptrdiff_t first_h, first_w; /* backward_input: kernel row and column of tap (0, 0) */
    ptrdiff_t before;           /* taps of the phases before this one */
} fc_gemm_phase;

/* Pixels of one vector that lie in one source row: lanes lo .. hi. Lane 0 is (h, w) for tap (0, 0), element `from`. */
typedef struct {
    ptrdiff_t from, h, w;
    int32_t lo, hi;
} fc_gemm_source;

/* `b` lies `apart` elements after `a` in one row of one image. All three are asked: images of one channel and one row
 * follow each other in memory, where the next one's first pixels come right after this one's last. */
static inline int fc_gemm_same_row(const fc_gemm_source *a, const fc_gemm_source *b, ptrdiff_t apart) {
    return b->h == a->h && b->w == a->w + apart && b->from == a->from + apart;
}

/* Pixels of a block side by side in the result, or hop_w apart: the first is element `at` of its plane, `to` of all. */
typedef struct {
    ptrdiff_t pixel, count, to, at;
} fc_gemm_target;

typedef struct {
    const fc_call *call;
    fc_geometry g;
    fc_operation operation;
    fc_phase_axis ah, aw;                      /* backward_input */
    ptrdiff_t in, out;                         /* channels a group, of the source and of the result */
    ptrdiff_t H, W, src_channel, src_image;    /* source */
    ptrdiff_t dst_row, dst_channel, dst_image; /* result */
    ptrdiff_t phases, blocks, parts, panels;   /* of the work; panels of rows of a */
    ptrdiff_t panel_rows, longer_panels;       /* rows of a panel, and how many have one more */
    ptrdiff_t vectors, depth, block_vectors, pieces;
    ptrdiff_t pad; /* backward_input: elements between panels of weights */
    ptrdiff_t sums_row;
    /* vectors of a row, where that is a whole number of panels: blocks then begin with a row, as panels within one are
     * packed faster (7x7 stem: 1.05 to 1.15 times as fast in all) */
    ptrdiff_t unit;
    int pairs; /* both column phases of a stride of 2 in one item: their pixels alternate in the result */
    /* backward_input, one block of pixels: weights are copied just before they are used, as a copy of all of them may
     * go to level 3 and back, at 4 cycles a weight (512 x 512 x 3x3 on one 7x7 plane: 1.4 times as fast) */
    int lazy;
    size_t weights_bytes, table_bytes, panel_bytes, sums_bytes, own_weights_bytes;
    char *weights, *workers;
} fc_gemm;

/* What a worker has worked out for its block and may use again for its next item. */
typedef struct {
    ptrdiff_t block, phase; /* whose tables these are */
    int32_t *first_source; /* pieces of vector v: first[v] to first[v + 1] */
    fc_gemm_source *sources;
    fc_gemm_target *targets;
    ptrdiff_t runs; /* targets */
    char *panel, *sums, *weights;
    int poisoned; /* a weight that this worker copied is not finite */
} fc_gemm_worker;

static inline void fc_gemm_axis(const fc_phase_axis *a, ptrdiff_t r0, ptrdiff_t size, ptrdiff_t *taps, ptrdiff_t *step,
                                ptrdiff_t *from, ptrdiff_t *count, ptrdiff_t *to) {
    const ptrdiff_t phase = r0 * a->step % a->stride, first = ((phase - a->pad) % a->stride + a->stride) % a->stride;
    *taps = fc_phase_taps(a, r0);
    *step = -a->hop;
    *from = (first + a->pad - phase) / a->stride - fc_phase_start(a, r0);
    *count = first < size ? fc_ceil_div(size - first, a->stride) : 0;
    *to = first;
}

static inline fc_gemm_phase fc_gemm_phase_at(const fc_gemm *p, ptrdiff_t f) {
    const fc_geometry *g = &p->g;
    fc_gemm_phase q = {.down = g->R, .across = g->S, .hop_h = 1, .hop_w = 1};
    if (p->operation == FC_FORWARD) {
        q.step_h = g->dilation_h, q.step_w = g->dilation_w;
        q.stride_h = g->stride_h, q.stride_w = g->stride_w;
        q.from_h = -g->pad_h, q.from_w = -g->pad_w;
        q.rows = g->P, q.cols = g->Q;
        return q;
    }
    q.first_h = f / p->aw.phases, q.first_w = f % p->aw.phases;
    fc_gemm_axis(&p->ah, q.first_h, g->H, &q.down, &q.step_h, &q.from_h, &q.rows, &q.to_h);
    fc_gemm_axis(&p->aw, q.first_w, g->W, &q.across, &q.step_w, &q.from_w, &q.cols, &q.to_w);
    q.stride_h = q.stride_w = 1;
    q.hop_h = g->stride_h, q.hop_w = g->stride_w;
    for (ptrdiff_t r = 0; r < q.first_h; r++)
        q.before += fc_phase_taps(&p->ah, r) * g->S;
    for (ptrdiff_t s = 0; s < q.first_w; s++)
        q.before += q.down * fc_phase_taps(&p->aw, s);
    return q;
}

/* Channels of the source whose taps one pass covers. */
static inline ptrdiff_t fc_gemm_channels(const fc_gemm *p, ptrdiff_t taps) {
    const ptrdiff_t most = fc_max(1, FC_GEMM_DEPTH / taps);
    return fc_ceil_div(p->in, fc_ceil_div(p->in, most));
}

/* Where part i of nearly equal parts begins: `size` each, and one more in the first `more` of them. No division. */
static inline ptrdiff_t fc_gemm_begin(ptrdiff_t size, ptrdiff_t more, ptrdiff_t i) {
    return i * size + fc_min(i, more);
}

static inline ptrdiff_t fc_gemm_row(const fc_gemm *p, ptrdiff_t panel) {
    return fc_gemm_begin(p->panel_rows, p->longer_panels, panel);
}

/* 1x1 kernels with a stride read some pixels of x only: these are copied to planes of their own first. */
static inline int fc_gemm_sampled(const fc_geometry *g) {
    return fc_pointwise(g) && (g->stride_h > 1 || g->stride_w > 1);
}

static inline fc_geometry fc_gemm_samples(const fc_geometry *g) {
    fc_geometry dense = *g;
    dense.H = g->P, dense.W = g->Q;
    dense.stride_h = dense.stride_w = 1;
    return dense;
}

static inline size_t fc_gemm_samples_bytes(const fc_geometry *g, size_t size) {
    return fc_gemm_sampled(g) ? fc_round_up((size_t)(g->N * g->C * g->P * g->Q) * size) : 0;
}

static const char *gemm_unsupported(const fc_geometry *g) {
    return g->R * g->S > FC_GEMM_TAPS ? "a kernel of more than 256 elements" : NULL;
}

/* Against direct: 1.0 to 3 times as fast from 16 channels of the result on; 0.6 to 0.9 of it on 12 channels of 3x3 or
 * 16 of 5x5, where each packed vector serves few multiply-adds and a box packed once serves all taps. */
static const char *gemm_unwise(ptrdiff_t in, ptrdiff_t out, ptrdiff_t down, ptrdiff_t across) {
    const ptrdiff_t taps = down * across;
    if (out < 8)
        return "fewer than 8 channels a group in the result: packing costs more than the blocking saves";
    if (in * taps < 16)
        return "fewer than 16 products to a sum";
    if (in >= 4 && out < (taps >= 25 && down > 1 ? 80 : taps >= 16 ? 32 : taps >= 9 ? 16 : 8))
        return "few channels in the result for so many taps: packing costs more than the blocking saves";
    return NULL;
}

static const char *gemm_unwise_forward(const fc_geometry *given, int threads) {
    (void)threads;
    const fc_geometry flat = fc_flattened(given), *g = &flat;
    const ptrdiff_t out = g->K / g->groups, products = g->C / g->groups * g->R * g->S;
    const int patches = g->R > 1 && g->R <= g->stride_h && g->S <= g->stride_w; /* no pixel in two: 1.2 to 1.4 times */
    const int pixels = g->R == 1 && g->S == 1 && products >= FC_GEMM_PIXELS;
    if (!patches && !pixels && direct_along_rows(products, g->Q))
        return "few products to a sum, and rows that fill vectors: direct reads and writes them in place";
    if (!pixels && direct_short_rows(g))
        return "short rows with few products to a sum: direct writes them in place";
    if (g->Q < 16 && g->stride_w > 2 && out < 64)
        return "short strided rows and few output channels: packing costs more than the blocking saves";
    return gemm_unwise(g->C / g->groups, out, g->R, g->S);
}

static const char *gemm_unwise_backward_input(const fc_geometry *g, int threads) {
    (void)threads;
    const ptrdiff_t down = fc_ceil_div(g->R, g->stride_h), across = fc_ceil_div(g->S, g->stride_w); /* of a phase */
    return gemm_unwise(g->K / g->groups, g->C / g->groups, down, across);
}

#endif

/* ---- plan */

/* Cycles of one step of a register tile: multiply-adds, loads, or latency. */
static double FC(gemm_step)(double rows, double vectors) {
    const double products = 0.5 * rows * vectors, loads = 0.5 * (rows + vectors);
    const double step = products > loads ? products : loads;
    return step > 4 ? step : 4;
}

/* Vectors of a panel for which a block takes the fewest cycles; `copy`: to copy the weights of a row panel, a step. */
static ptrdiff_t FC(gemm_vectors)(ptrdiff_t rows, ptrdiff_t vectors, double depth, double copy) {
    static const int most[] = FC_GEMM_ROWS;
    double best = 0;
    ptrdiff_t chosen = 1;
    for (ptrdiff_t nv = 1; nv <= FC_GEMM_VECTORS; nv++) {
        const ptrdiff_t kb = fc_ceil_div(rows, most[nv - 1]), nb = fc_ceil_div(vectors, nv);
        const ptrdiff_t less = vectors / nb, longer = vectors % nb; /* panels of so many, and of one more */
        const double r = (double)rows / (double)kb;
        const double steps = (double)longer * FC(gemm_step)(r, (double)(less + 1)) +
                             (double)(nb - longer) * FC(gemm_step)(r, (double)less);
        const double cost = (double)kb * ((steps + copy + 0.2 * (double)nb) * depth + 30 * (double)nb);
        if (nv == 1 || cost < best)
            best = cost, chosen = nv;
    }
    return chosen;
}

static fc_gemm FC(gemm_plan)(const fc_geometry *given, fc_operation operation, int threads) {
    static const int most_rows[] = FC_GEMM_ROWS;
    fc_gemm p = {.g = fc_flattened(given), .operation = operation, .phases = 1};
    const fc_geometry *g = &p.g;
    ptrdiff_t rows = g->P, cols = g->Q; /* of the largest phase */
    if (operation == FC_FORWARD) {
        p.in = g->C / g->groups, p.out = g->K / g->groups;
        p.H = g->H, p.W = g->W, p.src_image = g->C * g->H * g->W;
        p.dst_row = g->Q, p.dst_channel = g->P * g->Q, p.dst_image = g->K * p.dst_channel;
    } else {
        p.in = g->K / g->groups, p.out = g->C / g->groups;
        p.H = g->P, p.W = g->Q, p.src_image = g->K * g->P * g->Q;
        p.dst_row = g->W, p.dst_channel = g->H * g->W, p.dst_image = g->C * p.dst_channel;
        p.ah = fc_phases(g->R, g->stride_h, g->dilation_h, g->pad_h);
        p.aw = fc_phases(g->S, g->stride_w, g->dilation_w, g->pad_w);
        p.phases = p.ah.phases * p.aw.phases;
        rows = fc_ceil_div(g->H, g->stride_h), cols = fc_ceil_div(g->W, g->stride_w);
        p.pairs = g->stride_w == 2 && p.aw.phases == 2 && g->W % 2 == 0;
    }
    p.src_channel = p.H * p.W;
    const ptrdiff_t taps = p.phases > 1 ? fc_phase_taps(&p.ah, 0) * fc_phase_taps(&p.aw, 0) : g->R * g->S;
    const ptrdiff_t total = fc_ceil_div(g->N * rows * cols, LANES);
    for (ptrdiff_t t = 1; t <= taps; t++) /* phases have different numbers of taps, and so of channels a pass */
        p.depth = fc_max(p.depth, fc_gemm_channels(&p, t) * t);
    ptrdiff_t part = fc_min(p.out, fc_max(FC_GEMM_WEIGHTS / (p.depth * (ptrdiff_t)sizeof(real)), FC_GEMM_MAX_ROWS));
    p.block_vectors = fc_clip(FC_GEMM_SUMS_BYTES / ((1 + p.pairs) * part * FC_VECTOR_BYTES), 6, FC_GEMM_BLOCK_VECTORS);
    /* small planes: weights that go to level 3 and back for each block cost more than sums that leave level 2 */
    if (operation == FC_BACKWARD_INPUT && p.phases == 1 && total <= FC_GEMM_LAZY_VECTORS)
        p.block_vectors = fc_max(p.block_vectors, total);
    if (threads > 1) { /* some four items a thread, but none under six vectors and 32 rows */
        const ptrdiff_t others = p.phases / (1 + p.pairs) * g->groups * fc_ceil_div(p.out, part);
        const ptrdiff_t wanted = fc_ceil_div(4 * (ptrdiff_t)threads, others);
        p.block_vectors = fc_min(p.block_vectors, fc_max(6, fc_ceil_div(total, wanted)));
        const ptrdiff_t blocks = fc_ceil_div(total, p.block_vectors) * p.phases / (1 + p.pairs) * g->groups;
        if (blocks * fc_ceil_div(p.out, part) < 4 * threads)
            part = fc_min(part, fc_max(32, fc_ceil_div(p.out, fc_ceil_div(4 * (ptrdiff_t)threads, blocks))));
    }
    const ptrdiff_t most = p.block_vectors = fc_min(p.block_vectors, total);
    p.parts = fc_ceil_div(p.out, part);
    const int rows_whole = cols % LANES == 0 && cols / LANES <= most; /* vectors do not cross the ends of rows */
    const ptrdiff_t run = rows_whole ? cols / LANES : fc_ceil_div(total, fc_ceil_div(total, most));
    const double copy = operation == FC_BACKWARD_INPUT ? 8 * (double)run / (double)total : 0;
    p.vectors = FC(gemm_vectors)(fc_ceil_div(p.out, p.parts), run, (double)p.depth, copy);
    p.unit = rows_whole && run % p.vectors == 0 ? run : 1;
    const ptrdiff_t units = fc_ceil_div(total, p.unit);
    p.blocks = fc_ceil_div(units, most / p.unit);
    p.block_vectors = fc_ceil_div(units, p.blocks) * p.unit;
    p.panels = fc_ceil_div(p.out, most_rows[p.vectors - 1]);
    p.panel_rows = p.out / p.panels, p.longer_panels = p.out % p.panels;
    if (operation == FC_BACKWARD_INPUT) { /* a line between panels, else those of 2^n channels share cache sets */
        p.pad = FC_LINE / (ptrdiff_t)sizeof(real);
        p.lazy = p.blocks == 1;
        if (!p.lazy)
            p.weights_bytes = fc_round_up(
                (size_t)(g->C * p.in * g->R * g->S + p.pad * p.panels * p.phases * g->groups) * sizeof(real));
    }
    p.parts = fc_min(p.parts, p.panels);
    const ptrdiff_t part_rows = fc_ceil_div(p.panels, p.parts) * most_rows[p.vectors - 1];
    /* a piece a vector, and one more for each row that begins in the block */
    p.pieces = fc_min(p.block_vectors * LANES, p.block_vectors + p.block_vectors * LANES / fc_max(cols - 1, 1) + 2);
    p.table_bytes = fc_round_up(sizeof(fc_gemm_worker)) + fc_round_up((size_t)(p.block_vectors + 1) * sizeof(int32_t)) +
                    fc_round_up((size_t)p.pieces * sizeof(fc_gemm_source)) +
                    fc_round_up((size_t)p.pieces * sizeof(fc_gemm_target));
        p.panel_bytes = (size_t)(FC_GEMM_TOGETHER * p.vectors * p.depth) * FC_VECTOR_BYTES;
    p.sums_row = (p.block_vectors | 1) * LANES; /* rows of 2^n vectors would share cache sets */
    p.sums_bytes = fc_round_up((size_t)(p.sums_row * part_rows) * sizeof(real));
    if (p.lazy)
        p.own_weights_bytes =
            fc_round_up((size_t)(part_rows * p.depth + fc_ceil_div(p.panels, p.parts) * p.pad) * sizeof(real));
    return p;
}

static size_t FC(gemm_worker_bytes)(const fc_gemm *p) { 
    return p->table_bytes + p->panel_bytes + (size_t)(1 + p->pairs) * p->sums_bytes + p->own_weights_bytes;
}

static size_t FC(gemm_workspace)(const fc_geometry *g, fc_operation operation, int threads) {
    threads = fc_worthwhile_threads(g, threads);
    const fc_gemm p = FC(gemm_plan)(g, operation, threads);
    return p.weights_bytes + (size_t)threads * FC(gemm_worker_bytes)(&p);
}

static size_t FC(gemm_forward_workspace)(const fc_geometry *g, int threads) {
    const fc_geometry dense = fc_gemm_sampled(g) ? fc_gemm_samples(g) : *g;
    return fc_gemm_samples_bytes(g, sizeof(real)) + FC(gemm_workspace)(&dense, FC_FORWARD, threads);
}

static size_t FC(gemm_backward_input_workspace)(const fc_geometry *g, int threads) {
    return FC(gemm_workspace)(g, FC_BACKWARD_INPUT, threads);
}

static fc_gemm_worker *FC(gemm_worker)(const fc_gemm *p, int number) {
    return (fc_gemm_worker *)(p->workers + (size_t)number * FC(gemm_worker_bytes)(p));
}

static void FC(gemm_divide)(fc_gemm *p, const fc_call *call, int threads) {
    p->call = call;
    p->weights = call->workspace;
    p->workers = p->weights + p->weights_bytes;
    for (int i = 0; i < threads; i++) {
        fc_gemm_worker *own = FC(gemm_worker)(p, i);
        char *at = (char *)own + fc_round_up(sizeof *own);
        *own = (fc_gemm_worker){.block = -1};
        own->first_source = (int32_t *)at;
        at += fc_round_up((size_t)(p->block_vectors + 1) * sizeof(int32_t));
        own->sources = (fc_gemm_source *)at;
        at += fc_round_up((size_t)p->pieces * sizeof(fc_gemm_source));
        own->targets = (fc_gemm_target *)at;
        own->panel = (char *)own + p->table_bytes;
        own->sums = own->panel + p->panel_bytes;
        own->weights = own->sums + (size_t)(1 + p->pairs) * p->sums_bytes;
    }
}

/* ---- tables of a block's pixels */

/* The result's pixels follow each other as the grid's do, over the rows of an image. */
FC_INLINE int FC(gemm_contiguous)(const fc_gemm *p, const fc_gemm_phase *q) {
    return q->hop_h == 1 && q->hop_w == 1 && q->cols == p->dst_row && q->rows * q->cols == p->dst_channel;
}

/* Pixels from vector v0 on, `vectors` of them; those beyond the grid's end have no piece. */
static void FC(gemm_tables)(const fc_gemm *p, const fc_gemm_phase *q, ptrdiff_t v0, ptrdiff_t vectors,
                            fc_gemm_worker *own) {
    const ptrdiff_t plane = q->rows * q->cols, end = fc_min((v0 + vectors) * LANES, p->g.N * plane);
    const int contiguous = FC(gemm_contiguous)(p, q);
    int32_t sources = 0;
    ptrdiff_t runs = 0;
    ptrdiff_t pixel = v0 * LANES, image = pixel / plane, i = pixel % plane / q->cols, j = pixel % q->cols;
    for (ptrdiff_t v = 0; v < vectors; v++) {
        own->first_source[v] = sources;
        for (ptrdiff_t lane = 0; lane < LANES && pixel < end;) {
            const ptrdiff_t run = fc_min(q->cols - j, fc_min(LANES - lane, end - pixel));
            const ptrdiff_t h = i * q->stride_h + q->from_h, w = (j - lane) * q->stride_w + q->from_w;
            own->sources[sources++] = (fc_gemm_source){image * p->src_image + h * p->W + w, h, w, (int32_t)lane,
                                                       (int32_t)(lane + run)};
            if (pixel > v0 * LANES && (j || (contiguous && i))) { /* goes on where the piece before it ended */
                own->targets[runs - 1].count += run;
            } else {
                const ptrdiff_t at = (q->to_h + i * q->hop_h) * p->dst_row + q->to_w + j * q->hop_w;
                own->targets[runs++] = (fc_gemm_target){pixel - v0 * LANES, run, image * p->dst_image + at, at};
            }
            lane += run;
            pixel += run;
            j += run;
            if (j == q->cols) {
                j = 0;
                if (++i == q->rows)
                    i = 0, image++;
            }
        }
    }
    own->first_source[vectors] = sources;
    own->runs = runs;
}

/* ---- packing of pixels */

/* Pixels of one tap: where they come from and go to, `channels` times. */
typedef struct {
    ptrdiff_t channels, from_step, to_step, stride;
    ptrdiff_t row; /* elements between taps of a panel */
    ptrdiff_t panels, panel_step; /* side by side in the source, elements apart */
} FC(gemm_walk);

/* Some lanes of a vector of pixels: those that are pixels of the source; the others are zero. */
typedef struct {
    const real *from;
    ptrdiff_t lo, hi;
} FC(gemm_lanes);

FC_INLINE vec FC(either)(vec a, vec b) { return (vec)((FC(ints))a | (FC(ints))b); } /* one of them is 0 in each lane */

static FC(gemm_lanes) FC(gemm_inside)(const fc_gemm *p, const fc_gemm_phase *q, const fc_gemm_source *piece,
                                      const real *from, ptrdiff_t r, ptrdiff_t s) {
    const ptrdiff_t h = piece->h + r * q->step_h, w = piece->w + s * q->step_w, stride = q->stride_w;
    FC(gemm_lanes) l = {from + piece->from + r * q->step_h * p->W + s * q->step_w, piece->lo, piece->hi};
    if (w + l.lo * stride < 0)
        l.lo = fc_min(fc_ceil_div(-w, stride), l.hi);
    if (w + (l.hi - 1) * stride >= p->W)
        l.hi = w >= p->W ? l.lo : fc_min(fc_ceil_div(p->W - w, stride), l.hi);
    if (h < 0 || h >= p->H || l.hi < l.lo)
        l.hi = l.lo;
    return l;
}

/* Lanes of two pieces (the second one may be empty), and of what is there already where `add`. */
static void FC(gemm_pack_lanes)(const FC(gemm_walk) *walk, FC(gemm_lanes) a, FC(gemm_lanes) b, int add, real *to) {
    const FC(lanes) in_a = FC(between)(a.lo, a.hi), in_b = FC(between)(b.lo, b.hi);
    const ptrdiff_t step = walk->from_step;
    if (a.lo == a.hi && b.lo == b.hi && !add)
        for (ptrdiff_t c = 0; c < walk->channels; c++, to += walk->to_step)
            FC(store)(to, (vec){0});
    else if (b.lo == b.hi && !add)
        for (ptrdiff_t c = 0; c < walk->channels; c++, to += walk->to_step)
            FC(store)(to, FC(load_lanes)(a.from + c * step, in_a));
    else
        for (ptrdiff_t c = 0; c < walk->channels; c++, to += walk->to_step) {
            const vec first = FC(load_lanes)(a.from + c * step, in_a), second = FC(load_lanes)(b.from + c * step, in_b);
            const vec pixels = FC(either)(first, second);
            FC(store)(to, add ? FC(either)(pixels, FC(load)(to)) : pixels);
        }
}

/* The lanes of one piece of a source with stride 2. */
static void FC(gemm_pack_pairs)(const FC(gemm_walk) *walk, FC(gemm_lanes) a, int add, real *to) {
    const ptrdiff_t lo = 2 * a.lo, hi = fc_max(2 * a.hi - 1, lo);
    const FC(lanes) low = FC(between)(fc_min(lo, LANES), fc_min(hi, LANES));
    const FC(lanes) high = FC(between)(fc_max(lo - LANES, 0), fc_max(hi - LANES, 0));
    for (ptrdiff_t c = 0; c < walk->channels; c++, to += walk->to_step) {
        const real *from = a.from + c * walk->from_step;
        const vec pixels = FC(unzip_even)(FC(load_lanes)(from, low), FC(load_lanes)(from + LANES, high));
        FC(store)(to, add ? FC(either)(pixels, FC(load)(to)) : pixels);
    }
}

/* The lanes of one piece of a source with any stride. */
static void FC(gemm_pack_apart)(const FC(gemm_walk) *walk, FC(gemm_lanes) a, int add, real *to) {
    for (ptrdiff_t c = 0; c < walk->channels; c++, to += walk->to_step) {
        const real *from = a.from + c * walk->from_step;
        if (!add)
            FC(store)(to, (vec){0});
        for (ptrdiff_t lane = a.lo; lane < a.hi; lane++)
            to[lane] = from[lane * walk->stride];
    }
}

/* NV vectors side by side in one row of the source, for `taps` taps `step` apart: all that is read is source. */
FC_INLINE void FC(gemm_pack_taps)(const int NV, const FC(gemm_walk) *walk, const real *at, ptrdiff_t taps,
                                  ptrdiff_t step, real *put) {
    const ptrdiff_t stride = walk->stride, row = walk->row;
    ptrdiff_t s = 0;
    if (stride == 1) {
        for (; s < taps; s++, at += step, put += row)
            FC_UNROLL for (int v = 0; v < NV; v++) FC(store)(put + v * LANES, FC(load)(at + v * LANES));
        return;
    }
    if (stride == 2) {
        if (step == 1)
            for (; s + 1 < taps; s += 2, at += 2, put += 2 * row)
                FC_UNROLL for (int v = 0; v < NV; v++) {
                    const vec a = FC(load)(at + 2 * v * LANES), b = FC(load)(at + (2 * v + 1) * LANES);
                    FC(store)(put + v * LANES, FC(unzip_even)(a, b));
                    FC(store)(put + row + v * LANES, FC(unzip_odd)(a, b));
                }
        for (; s < taps; s++, at += step, put += row)
            FC_UNROLL for (int v = 0; v < NV; v++) {
                const vec a = FC(load)(at + 2 * v * LANES), b = FC(load)(at + (2 * v + 1) * LANES);
                FC(store)(put + v * LANES, FC(unzip_even)(a, b));
            }
        return;
    }
    if (step == 1)
        for (; s + FC_TURN <= taps; s += FC_TURN, at += FC_TURN)
            for (ptrdiff_t v = 0; v < NV; v++) {
                vec turned[FC_TURN];
                FC(turn)(at + v * LANES * stride, stride, turned);
                FC_UNROLL for (int i = 0; i < FC_TURN; i++)
                    FC(store)(put + (s + i) * row + v * LANES, turned[i]);
            }
    for (put += s * row; s < taps; s++, at += step, put += row)
        for (ptrdiff_t lane = 0; lane < NV * LANES; lane++)
            put[lane] = at[lane * stride];
}

/* The same for all channels of panels side by side. Channels are pages apart, so what comes next is asked for: a few
 * channels further on, or of one panel, which may be all of few channels, the next panel. */
FC_INLINE void FC(gemm_pack_whole)(const int NV, const FC(gemm_walk) *walk, const real *from, ptrdiff_t taps,
                                   ptrdiff_t step, real *to) {
    const ptrdiff_t width = NV * LANES * walk->stride;
    const ptrdiff_t ahead = walk->panels > 1 ? FC_GEMM_AHEAD * walk->from_step : width + fc_max(0, (taps - 1) * step);
    for (ptrdiff_t c = 0; c < walk->channels; c++, from += walk->from_step, to += walk->to_step) {
        for (ptrdiff_t line = 0; line < walk->panels * width; line += FC_LINE / (ptrdiff_t)sizeof(real))
            __builtin_prefetch(from + ahead + line, 0, 2);
        for (ptrdiff_t n = 0; n < walk->panels; n++)
            FC(gemm_pack_taps)(NV, walk, from + n * width, taps, step, to + n * walk->panel_step);
    }
}

FC_NOINLINE void FC(gemm_pack_wholes)(ptrdiff_t nv, const FC(gemm_walk) *walk, const real *from, ptrdiff_t taps,
                                      ptrdiff_t step, real *to) {
    switch (nv) {
    case 1: FC(gemm_pack_whole)(1, walk, from, taps, step, to); break;
    case 2: FC(gemm_pack_whole)(2, walk, from, taps, step, to); break;
    case 3: FC(gemm_pack_whole)(3, walk, from, taps, step, to); break;
    }
}

/* One vector for tap (r, s): its pieces of the source, and zeros. */
static void FC(gemm_pack_pieces)(const fc_gemm *p, const fc_gemm_phase *q, const FC(gemm_walk) *walk,
                                 const fc_gemm_source *piece, ptrdiff_t pieces, const real *from, ptrdiff_t r,
                                 ptrdiff_t s, real *to) {
    const int together = q->stride_w == 1 ? 2 : 1;
    ptrdiff_t i = 0;
    do {
        FC(gemm_lanes) a = {from, 0, 0}, b = {from, 0, 0};
        if (i < pieces)
            a = FC(gemm_inside)(p, q, piece + i, from, r, s);
        if (i + 1 < pieces && together == 2)
            b = FC(gemm_inside)(p, q, piece + i + 1, from, r, s);
        if (q->stride_w == 1)
            FC(gemm_pack_lanes)(walk, a, b, i > 0, to);
        else if (q->stride_w == 2)
            FC(gemm_pack_pairs)(walk, a, i > 0, to);
        else
            FC(gemm_pack_apart)(walk, a, i > 0, to);
    } while ((i += together) < pieces);
}

/* `nv` vectors from v on, one run of a source row where nv > 1, for all taps of `channels` channels. The taps that keep
 * them all inside the source are copied whole. */
static void FC(gemm_pack_vectors)(const fc_gemm *p, const fc_gemm_phase *q, const fc_gemm_worker *own, ptrdiff_t v,
                                  ptrdiff_t nv, const real *from, ptrdiff_t channels, real *to, ptrdiff_t row) {
    const FC(gemm_walk) walk = {channels, p->src_channel, q->down * q->across * row, q->stride_w, row, 1, 0};
    const fc_gemm_source *piece = own->sources + own->first_source[v];
    const ptrdiff_t pieces = own->first_source[v + 1] - own->first_source[v];
    const ptrdiff_t reach = (nv * LANES - 1) * q->stride_w + (q->stride_w == 2); /* two vectors of source give one */
    ptrdiff_t first = 0, end = 0; /* taps of a row that are inside for all lanes */
    if (pieces == 1 && piece->lo == 0 && piece->hi == LANES) {
        while (first < q->across && (piece->w + first * q->step_w < 0 || piece->w + first * q->step_w + reach >= p->W))
            first++;
        end = first;
        while (end < q->across && piece->w + end * q->step_w >= 0 && piece->w + end * q->step_w + reach < p->W)
            end++;
    }
    for (ptrdiff_t r = 0; r < q->down; r++)
        for (ptrdiff_t s = 0; s < q->across; s++, to += row) {
            const ptrdiff_t h = first < end ? piece->h + r * q->step_h : -1;
            if (s == first && h >= 0 && h < p->H) {
                const real *source = from + piece->from + r * q->step_h * p->W + s * q->step_w;
                FC(gemm_pack_wholes)(nv, &walk, source, end - first, q->step_w, to);
                to += (end - first - 1) * row;
                s = end - 1;
                continue;
            }
            for (ptrdiff_t u = v; u < v + nv; u++) {
                const int32_t at = own->first_source[u];
                FC(gemm_pack_pieces)(p, q, &walk, own->sources + at, own->first_source[u + 1] - at, from, r, s,
                                     to + (u - v) * LANES);
            }
        }
}

/* The panel of vectors v0 .. v1 of the block: [step of k][vector]. */
static void FC(gemm_pack)(const fc_gemm *p, const fc_gemm_phase *q, const fc_gemm_worker *own, ptrdiff_t v0,
                          ptrdiff_t v1, const real *from, ptrdiff_t channels, real *to) {
    const fc_gemm_source *first = own->sources + own->first_source[v0];
    const fc_gemm_source *last = own->sources + own->first_source[v1] - 1;
    const ptrdiff_t nv = v1 - v0, apart = (nv - 1) * LANES * q->stride_w;
    if (last - first == nv - 1 && last->hi == LANES && fc_gemm_same_row(first, last, apart)) {
        FC(gemm_pack_vectors)(p, q, own, v0, nv, from, channels, to, nv * LANES);
        return;
    }
    for (ptrdiff_t v = v0; v < v1; v++, to += LANES)
        FC(gemm_pack_vectors)(p, q, own, v, 1, from, channels, to, nv * LANES);
}

/* `panels` panels of nv vectors, from vector v on, at once: where all taps of all pixels are inside one row of the
 * source, else 0 is returned. Reading a channel for all of them takes half the time of one panel after the other. */
static int FC(gemm_pack_panels)(const fc_gemm *p, const fc_gemm_phase *q, const fc_gemm_worker *own, ptrdiff_t v,
                                ptrdiff_t nv, ptrdiff_t panels, const real *from, ptrdiff_t channels, real *to) {
    const ptrdiff_t vectors = nv * panels;
    const fc_gemm_source *piece = own->sources + own->first_source[v];
    const fc_gemm_source *end = own->sources + own->first_source[v + vectors] - 1;
    const ptrdiff_t apart = (vectors - 1) * LANES * q->stride_w;
    if (end - piece != vectors - 1 || end->hi != LANES || !fc_gemm_same_row(piece, end, apart))
        return 0;
    const ptrdiff_t reach_h = (q->down - 1) * q->step_h, reach_w = (q->across - 1) * q->step_w;
    const ptrdiff_t right = (vectors * LANES - 1) * q->stride_w + (q->stride_w == 2); /* two vectors give one */
    if (piece->h + fc_min(0, reach_h) < 0 || piece->h + fc_max(0, reach_h) >= p->H ||
        piece->w + fc_min(0, reach_w) < 0 || piece->w + right + fc_max(0, reach_w) >= p->W)
        return 0;
    const ptrdiff_t taps = q->down * q->across, row = nv * LANES;
    const FC(gemm_walk) walk = {channels, p->src_channel,      taps * row, q->stride_w, row, panels,
                                channels * taps * row};
    for (ptrdiff_t r = 0; r < q->down; r++, to += q->across * row)
        FC(gemm_pack_wholes)(nv, &walk, from + piece->from + r * q->step_h * p->W, q->across, q->step_w, to);
    return 1;
}

/* ---- weights of backward_input */

enum { FC(gemm_gather) = 32 }; /* panels that are packed side by side, so that w is read in longer runs */

/* mr numbers that lie side by side; whole vectors where that stays inside w and what comes after is written later. */
FC_INLINE void FC(gemm_copy_rows)(const real *from, const real *end, ptrdiff_t mr, int later, real *to) {
    if (later && end - from >= FC_GEMM_MAX_ROWS + LANES)
        for (ptrdiff_t m = 0; m < mr; m += LANES)
            FC(store)(to + m, FC(load)(from + m));
    else
        for (ptrdiff_t m = 0; m < mr; m++)
            to[m] = from[m];
}

/* MR rows, `row` elements apart, of a phase's taps: MR numbers a tap. A literal MR is faster than so short a loop. */
FC_INLINE void FC(gemm_turn_rows)(const int MR, const fc_gemm_phase *q, const real *from, ptrdiff_t row, ptrdiff_t down,
                                  ptrdiff_t across, real *to) {
    for (ptrdiff_t r = 0; r < q->down; r++, from += down) {
        const real *tap = from;
        for (ptrdiff_t s = 0; s < q->across; s++, to += MR, tap += across)
            FC_UNROLL for (int m = 0; m < MR; m++) to[m] = tap[m * row];
    }
}

FC_NOINLINE void FC(gemm_turn)(ptrdiff_t mr, const fc_gemm_phase *q, const real *from, ptrdiff_t row, ptrdiff_t down,
                               ptrdiff_t across, real *to) {
    switch (mr) {
    case 1: FC(gemm_turn_rows)(1, q, from, row, down, across, to); break;
    case 2: FC(gemm_turn_rows)(2, q, from, row, down, across, to); break;
    case 3: FC(gemm_turn_rows)(3, q, from, row, down, across, to); break;
    case 4: FC(gemm_turn_rows)(4, q, from, row, down, across, to); break;
    case 5: FC(gemm_turn_rows)(5, q, from, row, down, across, to); break;
    case 6: FC(gemm_turn_rows)(6, q, from, row, down, across, to); break;
    case 7: FC(gemm_turn_rows)(7, q, from, row, down, across, to); break;
    case 8: FC(gemm_turn_rows)(8, q, from, row, down, across, to); break;
    }
}

/* 0 in all lanes as long as `count` numbers are finite; those `ahead` are asked for. Four sums: one would wait for its
 * own additions. */
static vec FC(gemm_not_finite)(const real *from, ptrdiff_t count, ptrdiff_t ahead) {
    vec sums[4] = {{0}};
    ptrdiff_t i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES) {
        for (ptrdiff_t line = 0; line < 4 * LANES; line += FC_LINE / (ptrdiff_t)sizeof(real))
            __builtin_prefetch(from + i + line + ahead); /* rows of w may be pages apart */
        FC_UNROLL for (int s = 0; s < 4; s++) sums[s] += 0 * FC(load)(from + i + s * LANES);
    }
    for (; i < count; i += LANES)
        sums[0] += 0 * (count - i >= LANES ? FC(load)(from + i) : FC(load_lanes)(from + i, FC(between)(0, count - i)));
    return sums[0] + sums[1] + (sums[2] + sums[3]);
}

/* Row panels m0 .. m1 of one group and phase, source channels k0 .. k1, to panels [k][row], `pad` apart. Returns what
 * is 0 in all lanes as long as the weights are finite: 0 * inf and 0 * NaN are NaN. */
static vec FC(gemm_pack_weights)(const fc_gemm *p, const fc_gemm_phase *q, ptrdiff_t group, ptrdiff_t m0, ptrdiff_t m1,
                                 ptrdiff_t k0, ptrdiff_t k1, real *to) {
    const ptrdiff_t kernel = p->g.R * p->g.S, taps = q->down * q->across;
    const ptrdiff_t down = p->ah.period * p->g.S, across = p->aw.period;
    const ptrdiff_t row0 = fc_gemm_row(p, m0), span = (fc_gemm_row(p, m1) - row0) * kernel;
    const real *w = (const real *)p->call->w + (group * p->in * p->out + row0) * kernel;
    const real *end = (const real *)p->call->w + p->g.groups * p->in * p->out * kernel;
    vec poison = {0};
    for (ptrdiff_t k = k0; k < k1; k++) {
        const real *from = w + k * p->out * kernel;
        if (p->lazy || !q->before) /* phase 0 looks at all of w */
            poison += FC(gemm_not_finite)(from, span, 6 * p->out * kernel);
        from += q->first_h * p->g.S + q->first_w;
        for (ptrdiff_t m = m0, r0 = row0, mr; m < m1; m++, r0 += mr, from += mr * kernel) {
            mr = fc_gemm_row(p, m + 1) - r0;
            real *at = to + ((r0 - row0) * (k1 - k0) + (k - k0) * mr) * taps + (m - m0) * p->pad;
            if (kernel == 1) {
                FC(gemm_copy_rows)(from, end, mr, (k + 1 - k0) * mr + LANES <= (k1 - k0) * mr, at);
                continue;
            }
            FC(gemm_turn)(mr, q, from, kernel, down, across, at);
        }
    }
    return poison;
}

static void FC(gemm_watch)(vec poison, fc_gemm_worker *own) {
    for (ptrdiff_t l = 0; l < LANES; l++)
        own->poisoned |= poison[l] != 0;
}

/* The copied weights of one group and phase: [row panel][k][row]. */
static real *FC(gemm_weights)(const fc_gemm *p, const fc_gemm_phase *q, ptrdiff_t group, ptrdiff_t f) {
    const ptrdiff_t taps = p->g.R * p->g.S;
    const ptrdiff_t pads = (group * p->phases + f) * p->panels;
    return (real *)p->weights + (group * taps + q->before) * p->out * p->in + pads * p->pad;
}

/* Some row panels of one group, for all phases. */
static void FC(gemm_weights_item)(void *context, ptrdiff_t i, int number) {
    const fc_gemm *p = context;
    const ptrdiff_t items = fc_ceil_div(p->panels, FC(gemm_gather)), group = i / items;
    const ptrdiff_t m0 = i % items * FC(gemm_gather), m1 = fc_min(m0 + FC(gemm_gather), p->panels);
    for (ptrdiff_t f = 0; f < p->phases; f++) {
        const fc_gemm_phase q = fc_gemm_phase_at(p, f);
        real *to = FC(gemm_weights)(p, &q, group, f) + fc_gemm_row(p, m0) * p->in * q.down * q.across + m0 * p->pad;
        FC(gemm_watch)(FC(gemm_pack_weights)(p, &q, group, m0, m1, 0, p->in, to), FC(gemm_worker)(p, number));
    }
}

/* ---- items */

/* One block of pixels, one part of the rows. */
typedef struct {
    fc_gemm_worker *own;
    fc_gemm_phase q;
    ptrdiff_t group, f;
    ptrdiff_t vectors, panels, size, longer; /* of the block; vectors of a panel, and how many panels have one more */
    ptrdiff_t m0, m1, row0, rows;            /* row panels, rows */
    const real *from, *bias;                 /* the group's source; bias of row0 */
    real *to, *sums;                         /* row0 of the result, and the buffer of what does not go straight there */
    int straight, untied;                    /* panels may go straight to the result; a bias for each position */
} FC(gemm_job);

static void FC(gemm_store_run)(const real *sums, ptrdiff_t count, ptrdiff_t hop, const real *bias, real *to) {
    ptrdiff_t j = 0;
    if (hop > 1) {
        for (; j + LANES <= count; j += LANES)
            FC_UNROLL for (int l = 0; l < LANES; l++) to[(j + l) * hop] = sums[j + l];
        for (; j < count; j++)
            to[j * hop] = sums[j];
        return;
    }
    for (; j + LANES <= count; j += LANES)
        FC(store)(to + j, bias ? FC(load)(sums + j) + FC(load)(bias + j) : FC(load)(sums + j));
    for (; j < count; j++)
        to[j] = bias ? sums[j] + bias[j] : sums[j];
}

/* Pixels first .. end of the block from the buffer of sums to their places. */
static void FC(gemm_store)(const fc_gemm *p, const FC(gemm_job) *job, ptrdiff_t first, ptrdiff_t end) {
    const real *sums = job->sums, *bias = job->untied ? job->bias : NULL;
    real *to = job->to;
    for (ptrdiff_t r = 0; r < job->rows && first < end; r++, sums += p->sums_row, to += p->dst_channel) {
        for (ptrdiff_t i = 0; i < job->own->runs; i++) {
            const fc_gemm_target *run = job->own->targets + i;
            const ptrdiff_t lo = fc_max(first, run->pixel), hi = fc_min(end, run->pixel + run->count);
            const ptrdiff_t skip = lo - run->pixel;
            if (lo < hi)
                FC(gemm_store_run)(sums + lo, hi - lo, job->q.hop_w, bias ? bias + run->at + skip : NULL,
                                   to + run->to + skip * job->q.hop_w);
        }
        if (bias)
            bias += p->dst_channel;
    }
}

/* The run of the result that holds all of panel n, or NULL: its sums then go there straight. */
static const fc_gemm_target *FC(gemm_straight)(const FC(gemm_job) *job, ptrdiff_t n) {
    const ptrdiff_t first = fc_gemm_begin(job->size, job->longer, n) * LANES;
    const ptrdiff_t end = fc_gemm_begin(job->size, job->longer, n + 1) * LANES;
    for (ptrdiff_t i = 0; job->straight && i < job->own->runs; i++) {
        const fc_gemm_target *run = job->own->targets + i;
        if (run->pixel <= first && end <= run->pixel + run->count)
            return run;
    }
    return NULL;
}

/* What does not go straight to its place, in runs as long as possible. */
static void FC(gemm_store_rest)(const fc_gemm *p, const FC(gemm_job) *job) {
    ptrdiff_t first = 0;
    for (ptrdiff_t n = 0; n < job->panels; n++)
        if (FC(gemm_straight)(job, n)) {
            FC(gemm_store)(p, job, first, fc_gemm_begin(job->size, job->longer, n) * LANES);
            first = fc_gemm_begin(job->size, job->longer, n + 1) * LANES;
        }
    FC(gemm_store)(p, job, first, job->vectors * LANES);
}

/* Panels n0 .. n1, packed: all rows, `depth` steps of the sum from a_start on. `a` is at row panel m0, its rows are
 * a_length elements long. */
static void FC(gemm_multiply)(const fc_gemm *p, const FC(gemm_job) *job, ptrdiff_t n0, ptrdiff_t n1, ptrdiff_t depth,
                              int add, const real *a, ptrdiff_t a_length, ptrdiff_t a_start) {
    const int packed = p->operation == FC_BACKWARD_INPUT;
    const real *b = (const real *)job->own->panel;
    FC(gemm_run) runs[FC_GEMM_TOGETHER];
    int nv[FC_GEMM_TOGETHER] = {0};
    for (ptrdiff_t n = n0; n < n1; n++) {
        const ptrdiff_t v0 = fc_gemm_begin(job->size, job->longer, n);
        const ptrdiff_t v1 = fc_gemm_begin(job->size, job->longer, n + 1);
        const fc_gemm_target *run = FC(gemm_straight)(job, n);
        real *c = run ? job->to + run->to + v0 * LANES - run->pixel : job->sums + v0 * LANES;
        runs[n - n0] = (FC(gemm_run)){.b = b, .depth = depth, .c = c, .add = add, .a_row = a_length};
        runs[n - n0].c_row = run ? p->dst_channel : p->sums_row;
        nv[n - n0] = (int)(v1 - v0);
        b += (v1 - v0) * LANES * depth;
    }
    const real *bias = job->untied || add ? NULL : job->bias;
    for (ptrdiff_t m = job->m0, mr; m < job->m1; m++) {
        mr = fc_gemm_row(p, m + 1) - fc_gemm_row(p, m);
        for (ptrdiff_t n = 0; n < n1 - n0; n++) {
            runs[n].a = a + (packed ? mr : 1) * a_start;
            runs[n].a_step = mr;
            runs[n].bias = bias;
            FC(run_gemm)(packed, (int)mr, nv[n], runs + n);
            runs[n].c += mr * runs[n].c_row;
        }
        a += mr * a_length + p->pad;
        if (bias)
            bias += mr;
    }
}

/* Both column phases of a stride of 2, whose sums lie in one buffer after the other. */
static void FC(gemm_store_pairs)(const fc_gemm *p, const FC(gemm_job) *job) {
    const ptrdiff_t apart = (ptrdiff_t)(p->sums_bytes / sizeof(real));
    const real *later = job->sums, *earlier = job->sums - apart; /* by phase; the last one's tables are there */
    const real *even = job->q.to_w ? earlier : later, *odd = job->q.to_w ? later : earlier;
    for (ptrdiff_t r = 0; r < job->rows; r++, even += p->sums_row, odd += p->sums_row)
        for (ptrdiff_t i = 0; i < job->own->runs; i++) {
            const fc_gemm_target *run = job->own->targets + i;
            const real *a = even + run->pixel, *b = odd + run->pixel;
            real *to = job->to + r * p->dst_channel + run->to - job->q.to_w;
            ptrdiff_t j = 0;
            for (; j + LANES <= run->count; j += LANES) {
                FC(store)(to + 2 * j, FC(zip_low)(FC(load)(a + j), FC(load)(b + j)));
                FC(store)(to + 2 * j + LANES, FC(zip_high)(FC(load)(a + j), FC(load)(b + j)));
            }
            for (; j < run->count; j++)
                to[2 * j] = a[j], to[2 * j + 1] = b[j];
        }
}

/* Panels n0 .. n1 of the block, which have the same number of vectors. */
static void FC(gemm_pack_some)(const fc_gemm *p, const FC(gemm_job) *job, ptrdiff_t n0, ptrdiff_t n1, const real *from,
                               ptrdiff_t channels, real *to) {
    const fc_gemm_phase *q = &job->q;
    const ptrdiff_t nv = job->size + (n0 < job->longer), v = fc_gemm_begin(job->size, job->longer, n0);
    if (n1 - n0 > 1 && FC(gemm_pack_panels)(p, q, job->own, v, nv, n1 - n0, from, channels, to))
        return;
    for (ptrdiff_t n = 0; n < n1 - n0; n++, to += nv * LANES * channels * q->down * q->across)
        FC(gemm_pack)(p, q, job->own, v + n * nv, v + (n + 1) * nv, from, channels, to);
}

/* The sums of one phase, over all channels. */
static void FC(gemm_sum)(const fc_gemm *p, const FC(gemm_job) *job) {
    const fc_gemm_phase *q = &job->q;
    const ptrdiff_t taps = q->down * q->across, length = p->in * taps, pass = fc_gemm_channels(p, taps);
    for (ptrdiff_t c0 = 0; c0 < p->in; c0 += pass) {
        const ptrdiff_t channels = fc_min(pass, p->in - c0), depth = channels * taps;
        real *own = (real *)job->own->weights;
        const real *a = (const real *)p->call->w + (job->group * p->out + job->row0) * length;
        if (p->lazy) {
            const vec poison = FC(gemm_pack_weights)(p, q, job->group, job->m0, job->m1, c0, c0 + channels, own);
            FC(gemm_watch)(poison, job->own);
            a = own;
        } else if (p->operation == FC_BACKWARD_INPUT)
            a = FC(gemm_weights)(p, q, job->group, job->f) + job->row0 * length + job->m0 * p->pad;
        for (ptrdiff_t n0 = 0, n1; n0 < job->panels; n0 = n1) {
            n1 = fc_min(n0 + FC_GEMM_TOGETHER, job->panels);
            real *to = (real *)job->own->panel;
            for (ptrdiff_t n = n0, same; n < n1; n = same) {
                same = n < job->longer ? fc_min(job->longer, n1) : n1;
                FC(gemm_pack_some)(p, job, n, same, job->from + c0 * p->src_channel, channels, to);
                to += (same - n) * (job->size + (n < job->longer)) * LANES * depth;
            }
            FC(gemm_multiply)(p, job, n0, n1, depth, c0 > 0, a, p->lazy ? depth : length, p->lazy ? 0 : c0 * taps);
        }
    }
}

static void FC(gemm_item)(void *context, ptrdiff_t i, int number) {
    const fc_gemm *p = context;
    const ptrdiff_t part = i % p->parts, block = i / p->parts, b = block % p->blocks;
    const int forward = p->operation == FC_FORWARD;
    fc_gemm_worker *own = FC(gemm_worker)(p, number);
    FC(gemm_job) job = {.own = own, .group = block / p->blocks % p->g.groups};
    job.m0 = fc_part(p->panels, p->parts, part), job.m1 = fc_part(p->panels, p->parts, part + 1);
    job.row0 = fc_gemm_row(p, job.m0), job.rows = fc_gemm_row(p, job.m1) - job.row0;
    const ptrdiff_t channel = job.group * p->out + job.row0, phase = block / p->blocks / p->g.groups;
    job.from = (const real *)(forward ? p->call->x : p->call->y) + job.group * p->in * p->src_channel;
    job.to = (real *)(forward ? p->call->y : p->call->x) + channel * p->dst_channel;
    job.untied = forward && p->call->bias && p->call->bias_per_position;
    if (forward && p->call->bias)
        job.bias = (const real *)p->call->bias + channel * (job.untied ? p->dst_channel : 1);
    for (int pair = 0; pair <= p->pairs; pair++) {
        job.f = phase * (1 + p->pairs) + pair;
        job.q = fc_gemm_phase_at(p, job.f);
        job.sums = (real *)(own->sums + (size_t)pair * p->sums_bytes);
        job.straight = FC(gemm_contiguous)(p, &job.q) && !job.untied;
        const ptrdiff_t all = fc_ceil_div(p->g.N * job.q.rows * job.q.cols, LANES), units = fc_ceil_div(all, p->unit);
        const ptrdiff_t first = fc_part(units, p->blocks, b) * p->unit;
        job.vectors = fc_min(fc_part(units, p->blocks, b + 1) * p->unit, all) - first;
        if (job.vectors <= 0)
            return;
        if (own->block != block || own->phase != job.f) {
            FC(gemm_tables)(p, &job.q, first, job.vectors, own);
            own->block = block, own->phase = job.f;
        }
        job.panels = fc_ceil_div(job.vectors, p->vectors);
        job.size = job.vectors / job.panels, job.longer = job.vectors % job.panels;
        FC(gemm_sum)(p, &job);
    }
    if (p->pairs)
        FC(gemm_store_pairs)(p, &job);
    else
        FC(gemm_store_rest)(p, &job);
}

static ptrdiff_t FC(gemm_items)(const fc_gemm *p) { 
    return p->phases / (1 + p->pairs) * p->g.groups * p->blocks * p->parts;
}

/* The pixels of plane i of x that a stride leaves. */
static void FC(gemm_sample)(void *context, ptrdiff_t i, int number) {
    const fc_call *call = context;
    const fc_geometry *g = &call->geometry;
    const ptrdiff_t stride = g->stride_w;
    const real *from = (const real *)call->x + i * g->H * g->W;
    real *to = (real *)call->workspace + i * g->P * g->Q;
    (void)number;
    for (ptrdiff_t row = 0; row < g->P; row++, from += g->stride_h * g->W, to += g->Q) {
        ptrdiff_t j = 0;
        if (stride == 2) /* the second vector may end one element further than the last pixel */
            for (; j + LANES <= g->Q && 2 * (j + LANES) <= g->W; j += LANES)
                FC(store)(to + j, FC(unzip_even)(FC(load)(from + 2 * j), FC(load)(from + 2 * j + LANES)));
        for (; j < g->Q; j++)
            to[j] = from[j * stride];
    }
}

static void FC(gemm_forward_dense)(const fc_call *call) {
    const int threads = fc_worthwhile_threads(&call->geometry, call->threads);
    fc_gemm p = FC(gemm_plan)(&call->geometry, FC_FORWARD, threads);
    FC(gemm_divide)(&p, call, threads);
    fc_parallel(threads, FC(gemm_items)(&p), call->keep_denormals, FC(gemm_item), &p);
}

static void FC(gemm_forward)(const fc_call *call) {
    const fc_geometry *g = &call->geometry;
    fc_call dense = *call;
    if (fc_gemm_sampled(g)) {
        const int threads = fc_worthwhile_threads(g, call->threads);
        fc_parallel(threads, g->N * g->C, call->keep_denormals, FC(gemm_sample), &dense);
        dense.x = call->workspace;
        dense.workspace = (char *)call->workspace + fc_gemm_samples_bytes(g, sizeof(real));
        dense.geometry = fc_gemm_samples(g);
    }
    FC(gemm_forward_dense)(&dense);
}

static void FC(gemm_backward_input)(const fc_call *call) {
    const int threads = fc_worthwhile_threads(&call->geometry, call->threads);
    fc_gemm p = FC(gemm_plan)(&call->geometry, FC_BACKWARD_INPUT, threads);
    FC(gemm_divide)(&p, call, threads);
    if (!p.lazy)
        fc_parallel(p.weights_bytes > FC_GEMM_WEIGHTS ? threads : 1,
                    p.g.groups * fc_ceil_div(p.panels, FC(gemm_gather)), call->keep_denormals, FC(gemm_weights_item),
                    &p);
    if (p.ah.phases < p.ah.stride || p.aw.phases < p.aw.stride) /* elements that no tap reaches */
        memset(call->x, 0, (size_t)(p.g.N * p.g.C * p.g.H * p.g.W) * sizeof(real));
    fc_parallel(threads, FC(gemm_items)(&p), call->keep_denormals, FC(gemm_item), &p);
    int poisoned = 0;
    for (int i = 0; i < threads; i++)
        poisoned |= FC(gemm_worker)(&p, i)->poisoned;
    if (poisoned) /* the zeros around y times an infinite weight may be NaN where x does not depend on it */
        FC(small_backward_input)(call);
}
