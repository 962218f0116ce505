/* The plan of a direct summation, free of element types: forward and backward_input as one kind of problem.
 *
 * A stencil computes, on a grid of rows x cols, sums over taps of source pixels at fixed distances. The source is
 * copied box by box into a packed form in which every stride is 1: padded, split into its stride phases (the columns
 * 0, s, 2s, ... of the padded row, then 1, s+1, ...; the same for rows). In the packed box
 *
 *     channel -> phase (row phase, column phase) -> plane of packed_rows x pitch
 *
 * pixel (i, j) of the grid is element i * pitch + j of a plane, and a tap is a distance from there. Pixels are taken
 * as one flat run, across row ends: the few columns between them (pitch - box_cols) are computed and not stored. Where
 * the padding allows, the zeros right of one row are the zeros left of the next.
 *
 * A batch of 1-D signals is a plane whose rows are the images. */
#ifndef FC_STENCIL_H
#define FC_STENCIL_H

#include "common.h"

enum {
    FC_BOX_BYTES = 512 << 10, /* packed pixels of one box; 128 KB: 3x3 to 3 channels on 224x224 half as fast */
    FC_BOX_VECTORS = 1024,    /* vectors of pixels of one box: bounds the table of pieces */
    FC_CHUNK = 96,            /* taps summed in registers before they are added to memory: keeps long sums accurate
                                 (256: up to 3 times torch's error, 96: 2 times; the cost is within 0 to 13%) */
    FC_LONG_CHUNK = 192,      /* the same where sums go straight to y: adding there costs more, and y longer rows */
    FC_SEGMENT_BYTES = 20 << 10, /* pixels that tiles of all channels read, before those beside them: stay in level 1 */
    FC_ROW_BYTES = 6400,      /* backward_weight: pixels of one row of y, of which several have to stay in level 1 */
    FC_SUM_BYTES = 1 << 20,   /* backward_weight: a w up to this is summed apart by each thread */
    FC_LINE = 64
};

typedef struct {
    /* source: `channels` a group, strides in elements */
    ptrdiff_t images, groups, channels, H, W;
    ptrdiff_t src_image, src_channel, src_row;
    /* row i of phase f is source row  stride * i + (f * phase_step) % stride - pad;  columns alike */
    ptrdiff_t stride_h, stride_w, step_h, step_w, phases_h, phases_w, pad_h, pad_w;
    ptrdiff_t halo_h, halo_w; /* how far taps reach beyond the grid, in packed rows and columns */
    /* grid, and where it lies in memory */
    ptrdiff_t rows, cols;
    ptrdiff_t dst_image, dst_channel, dst_row, bias_row;
    /* boxes */
    ptrdiff_t box_rows, box_cols, boxes_h, boxes_w;
    ptrdiff_t packed_rows, pitch, plane, channel, packed; /* elements; `packed` with the slack that vectors may read */
    ptrdiff_t flat;                                       /* vectors that cover the grid of one box */
} fc_stencil;

static inline ptrdiff_t fc_min(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static inline ptrdiff_t fc_max(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
static inline ptrdiff_t fc_clip(ptrdiff_t a, ptrdiff_t lo, ptrdiff_t hi) { return a < lo ? lo : a > hi ? hi : a; }
static inline ptrdiff_t fc_ceil_div(ptrdiff_t a, ptrdiff_t b) { return (a + b - 1) / b; } /* a >= 0 */
static inline size_t fc_round_up(size_t bytes) { return (bytes + FC_LINE - 1) / FC_LINE * FC_LINE; }

static inline ptrdiff_t fc_gcd(ptrdiff_t a, ptrdiff_t b) {
    while (b) {
        const ptrdiff_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Start and length of part `i` of `parts` nearly equal parts of `total`. */
static inline ptrdiff_t fc_part(ptrdiff_t total, ptrdiff_t parts, ptrdiff_t i) { return total * i / parts; }

/* The same map with fewer axes where that is possible: 1x1 kernels that touch every pixel once are 1-D. */
static inline fc_geometry fc_flattened(const fc_geometry *given) {
    fc_geometry g = *given;
    const int pixelwise = g.R == 1 && g.S == 1 && g.stride_h == 1 && g.stride_w == 1;
    if (pixelwise && !g.pad_h && !g.pad_w && g.P == g.H && g.Q == g.W) {
        g.W *= g.H;
        g.Q *= g.P;
        g.H = g.P = 1;
    }
    if (g.R == 1)
        g.dilation_h = 1;
    if (g.S == 1)
        g.dilation_w = 1;
    return g;
}

/* Every pixel of y depends on one of x, which is there. */
static inline int fc_pointwise(const fc_geometry *g) {
    const int inside = (g->P - 1) * g->stride_h < g->H && (g->Q - 1) * g->stride_w < g->W;
    return g->R == 1 && g->S == 1 && !g->pad_h && !g->pad_w && inside;
}

static inline int fc_one_row(const fc_geometry *g) {
    return g->H == 1 && g->R == 1 && g->P == 1 && g->stride_h == 1 && !g->pad_h;
}

/* Column where real data begins in the packed rows of column phase f, and where it ends. */
static inline ptrdiff_t fc_first_column(const fc_stencil *s, ptrdiff_t f) {
    const ptrdiff_t before = s->pad_w - f * s->step_w % s->stride_w;
    return before <= 0 ? 0 : fc_ceil_div(before, s->stride_w);
}
static inline ptrdiff_t fc_end_column(const fc_stencil *s, ptrdiff_t f) {
    const ptrdiff_t end = s->W + s->pad_w - f * s->step_w % s->stride_w;
    return end <= 0 ? 0 : fc_ceil_div(end, s->stride_w);
}

/* Planes that hold `images` of what they hold now, and what follows from that. */
static inline void fc_widen_planes(fc_stencil *s, ptrdiff_t images, ptrdiff_t lanes) {
    s->plane *= images;
    s->channel = s->phases_h * s->phases_w * s->plane;
    if (s->channel % 256 == 0) /* channels a multiple of 1 KB apart would share cache sets */
        s->channel += lanes;
    s->packed = s->channels * s->channel + s->halo_w + 2 * lanes;
}

/* Sizes of the packed box once box_rows and box_cols are known. Rows of a whole number of vectors make every vector
 * one store; that is worth some empty lanes where there are few taps to a pixel. */
static inline void fc_pack_sizes(fc_stencil *s, ptrdiff_t lanes, double taps) {
    ptrdiff_t shared = s->box_cols == s->cols ? fc_min(s->halo_w, lanes) : 0, end = 0;
    for (ptrdiff_t f = 0; f < s->phases_w; f++) {
        shared = fc_min(shared, fc_first_column(s, f));
        end = fc_max(end, fc_min(fc_end_column(s, f), s->box_cols + s->halo_w));
    }
    if (s->box_cols < s->cols)
        end = s->box_cols + s->halo_w;
    const ptrdiff_t least = fc_max(end, s->box_cols + s->halo_w - shared);
    double best = 0;
    s->pitch = 0;
    for (ptrdiff_t unit = 1; unit <= lanes; unit *= 2) {
        const ptrdiff_t pitch = fc_ceil_div(least, unit) * unit;
        const double vectors = (double)fc_ceil_div((s->box_rows - 1) * pitch + s->box_cols, lanes);
        const double pieces = unit == lanes ? (double)(s->box_rows * fc_ceil_div(s->box_cols, lanes))
                                            : vectors + (double)s->box_rows;
        const double cost = vectors * taps + 3 * pieces; /* in multiply-add pairs: 0.5 cycles and about 1.5 */
        if (!s->pitch || cost < best) {
            best = cost;
            s->pitch = pitch;
        }
    }
    s->packed_rows = s->box_rows + s->halo_h;
    s->flat = fc_ceil_div((s->box_rows - 1) * s->pitch + s->box_cols, lanes);
    s->plane = s->packed_rows * s->pitch + lanes;
    fc_widen_planes(s, 1, lanes);
}

/* Boxes of at most FC_BOX_BYTES and so many pixels, as far as the halo and the length of a vector let them be small. */
static inline void fc_choose_boxes(fc_stencil *s, ptrdiff_t lanes, ptrdiff_t element, ptrdiff_t pixels, double taps,
                                   int threads) {
    const ptrdiff_t limit = FC_BOX_BYTES / element;
    const double depth = (double)s->channels * (double)s->phases_h * (double)s->phases_w;
    const double row = depth * (double)(s->cols + s->halo_w);
    s->box_cols = s->cols;
    if (row * (double)(1 + s->halo_h) > (double)limit) {
        const double fit = (double)limit / (depth * (double)(1 + s->halo_h)) - (double)s->halo_w;
        const ptrdiff_t least = fc_max(16 * lanes, s->halo_w / 2);
        s->box_cols = fit > (double)least ? (ptrdiff_t)fit / lanes * lanes : fc_ceil_div(least, lanes) * lanes;
        s->box_cols = fc_min(s->box_cols, s->cols);
    }
    s->box_cols = fc_min(s->box_cols, fc_max(pixels / lanes * lanes, lanes));
    s->boxes_w = fc_ceil_div(s->cols, s->box_cols);
    const double fit = (double)limit / (depth * (double)(s->box_cols + s->halo_w)) - (double)s->halo_h;
    s->box_rows = fit >= (double)s->rows ? s->rows : fit < 1 ? 1 : (ptrdiff_t)fit;
    s->box_rows = fc_min(s->box_rows, fc_max(1, pixels / (s->box_cols + fc_min(s->halo_w, lanes))));
    if (threads > 1) { /* some four boxes a thread, but none under eight vectors */
        const ptrdiff_t others = s->images * s->groups * s->boxes_w;
        const ptrdiff_t wanted = fc_ceil_div(4 * (ptrdiff_t)threads, others);
        const ptrdiff_t least = fc_ceil_div(8 * lanes, s->box_cols);
        s->box_rows = fc_min(s->box_rows, fc_max(fc_ceil_div(s->rows, wanted), fc_max(least, s->halo_h)));
        if (s->box_rows == s->rows && s->rows == 1 && others < 4 * threads) {
            const ptrdiff_t cols = fc_ceil_div(s->box_cols * others, 4 * (ptrdiff_t)threads);
            s->box_cols = fc_min(s->box_cols, fc_ceil_div(fc_max(cols, fc_max(16 * lanes, s->halo_w)), lanes) * lanes);
            s->boxes_w = fc_ceil_div(s->cols, s->box_cols);
        }
    }
    s->boxes_h = fc_ceil_div(s->rows, s->box_rows);
    s->box_rows = fc_ceil_div(s->rows, s->boxes_h);
    fc_pack_sizes(s, lanes, taps);
}

/* Batches of 1-D signals: the images become the rows of one plane. */
static inline void fc_images_as_rows(fc_stencil *s) {
    s->H = s->rows = s->images;
    s->src_row = s->src_image;
    s->dst_row = s->dst_image;
    s->bias_row = 0;
    s->images = 1;
}

/* forward and backward_weight: the source is x, the grid is y. */
static inline fc_stencil fc_x_stencil(const fc_geometry *g) {
    fc_stencil s = {0};
    s.images = g->N;
    s.groups = g->groups;
    s.channels = g->C / g->groups;
    s.H = g->H;
    s.W = g->W;
    s.src_row = g->W;
    s.src_channel = g->H * g->W;
    s.src_image = g->C * s.src_channel;
    s.stride_h = g->stride_h;
    s.stride_w = g->stride_w;
    s.step_h = g->dilation_h;
    s.step_w = g->dilation_w;
    s.phases_h = fc_min(g->R, g->stride_h / fc_gcd(g->stride_h, g->dilation_h));
    s.phases_w = fc_min(g->S, g->stride_w / fc_gcd(g->stride_w, g->dilation_w));
    s.pad_h = g->pad_h;
    s.pad_w = g->pad_w;
    s.halo_h = (g->R - 1) * g->dilation_h / g->stride_h;
    s.halo_w = (g->S - 1) * g->dilation_w / g->stride_w;
    s.rows = g->P;
    s.cols = g->Q;
    s.bias_row = s.dst_row = g->Q;
    s.dst_channel = g->P * g->Q;
    s.dst_image = g->K * s.dst_channel;
    if (fc_one_row(g))
        fc_images_as_rows(&s);
    return s;
}

static inline fc_stencil fc_forward_stencil(const fc_geometry *g, ptrdiff_t lanes, ptrdiff_t element, int threads) {
    fc_stencil s = fc_x_stencil(g);
    const double taps = (double)s.channels * (double)g->R * (double)g->S;
    fc_choose_boxes(&s, lanes, element, FC_BOX_VECTORS * lanes, taps, threads);
    return s;
}

static inline fc_stencil fc_weight_stencil(const fc_geometry *g, ptrdiff_t lanes, ptrdiff_t element, int threads) {
    fc_stencil s = fc_x_stencil(g);
    const double taps = (double)s.channels * (double)g->R * (double)g->S;
    fc_choose_boxes(&s, lanes, element, FC_ROW_BYTES / element, taps, threads);
    return s;
}

/* Distance of tap (channel c, kernel row r, column q) in the packed box of fc_forward_stencil. */
static inline ptrdiff_t fc_forward_offset(const fc_stencil *s, ptrdiff_t c, ptrdiff_t r, ptrdiff_t q) {
    const ptrdiff_t phase = r % s->phases_h * s->phases_w + q % s->phases_w;
    return c * s->channel + phase * s->plane + r * s->step_h / s->stride_h * s->pitch + q * s->step_w / s->stride_w;
}

/* backward_input: the source is y, the grid counts steps of the stride over the padded x. Element h of x has
 * h + pad_h = stride_h * (i + origin_h) + a, where a is its row phase. The taps that reach phase a are the kernel rows
 * r0, r0 + period, r0 + 2 period, ... with r0 the one of the first `period` rows that has r0 * dilation % stride = a;
 * the t-th lies reach(t) = r0 * dilation / stride + t * hop rows of y back. A strided transposed convolution is a set of
 * stride-1 stencils on the same packed y: as many output channels as there are phases, each with some of the taps. */
typedef struct {
    ptrdiff_t origin, period, hop, taps_total, step, stride, pad;
    ptrdiff_t phases; /* r0 = 0 .. phases - 1; other phases of x have no tap: zero */
} fc_phase_axis;

static inline fc_phase_axis fc_phases(ptrdiff_t taps, ptrdiff_t stride, ptrdiff_t dilation, ptrdiff_t pad) {
    const ptrdiff_t common = fc_gcd(stride, dilation), period = stride / common;
    return (fc_phase_axis){pad / stride, period, dilation / common, taps, dilation, stride, pad, fc_min(taps, period)};
}
static inline ptrdiff_t fc_phase_start(const fc_phase_axis *a, ptrdiff_t r0) { return r0 * a->step / a->stride; }
static inline ptrdiff_t fc_phase_taps(const fc_phase_axis *a, ptrdiff_t r0) {
    return (a->taps_total - 1 - r0) / a->period + 1;
}
/* First phase after r0 whose taps lie elsewhere: r0 up to there share one table of taps. */
static inline ptrdiff_t fc_phase_run(const fc_phase_axis *a, ptrdiff_t r0) {
    ptrdiff_t end = r0 + 1;
    while (end < a->phases && fc_phase_start(a, end) == fc_phase_start(a, r0) &&
           fc_phase_taps(a, end) == fc_phase_taps(a, r0))
        end++;
    return end;
}

static inline fc_stencil fc_backward_stencil(const fc_geometry *g, const fc_phase_axis *ah, const fc_phase_axis *aw,
                                             ptrdiff_t lanes, ptrdiff_t element,
                                             int threads) {
    fc_stencil s = {0};
    s.images = g->N;
    s.groups = g->groups;
    s.channels = g->K / g->groups;
    s.H = g->P;
    s.W = g->Q;
    s.src_row = g->Q;
    s.src_channel = g->P * g->Q;
    s.src_image = g->K * s.src_channel;
    s.stride_h = s.stride_w = s.step_h = s.step_w = s.phases_h = s.phases_w = 1;
    s.halo_h = (g->R - 1) * g->dilation_h / g->stride_h;
    s.halo_w = (g->S - 1) * g->dilation_w / g->stride_w;
    s.pad_h = s.halo_h - ah->origin;
    s.pad_w = s.halo_w - aw->origin;
    s.rows = (g->H - 1 + g->pad_h) / g->stride_h - ah->origin + 1;
    s.cols = (g->W - 1 + g->pad_w) / g->stride_w - aw->origin + 1;
    s.dst_row = g->W;
    s.dst_channel = g->H * g->W;
    s.dst_image = g->C * s.dst_channel;
    if (fc_one_row(g))
        fc_images_as_rows(&s);
    fc_choose_boxes(&s, lanes, element, FC_BOX_VECTORS * lanes,
                    (double)s.channels * (double)g->R * (double)g->S / (double)(ah->phases * aw->phases),
                    threads);
    return s;
}

#endif
