/* depthwise: backward_input of stride 2, one filter a channel and one output.
 *
 * Row h of x has h + pad_h = 2 (i + origin) + a, and is reached by the kernel rows r of a's parity alone, columns
 * alike: four stencils of stride 1 on one packed y, each with about a quarter of the taps. The two of a row phase are
 * computed by the tiles of depthwise.h into two planes that stay in level 1, then interleaved into x (1.7 times as
 * fast as direct.h on 3x3 over 56x56, Zen 3).
 *
 * Workspace: the turned weights by phase, and for each worker a packed block of y and two planes of phases. */

typedef struct {
    FC(depthwise) d;
    ptrdiff_t origin_h, origin_w, pitch; /* `pitch` of the planes of phases */
    size_t phase_bytes;
} FC(depthwise_strided);

static FC(depthwise_strided) FC(plan_depthwise_strided)(const fc_geometry *g) {
    FC(depthwise_strided) p = {.origin_h = g->pad_h / 2, .origin_w = g->pad_w / 2};
    FC(depthwise) *d = &p.d;
    fc_stencil *s = &d->s;
    d->g = *g;
    const ptrdiff_t halo_h = (g->R - 1) / 2, halo_w = (g->S - 1) / 2;
    *s = (fc_stencil){.H = g->P, .W = g->Q, .src_row = g->Q, .src_channel = g->P * g->Q, .channels = 1};
    s->stride_h = s->step_h = s->phases_h = s->stride_w = s->step_w = s->phases_w = 1;
    s->rows = (g->H - 1 + g->pad_h) / 2 - p.origin_h + 1;
    s->cols = (g->W - 1 + g->pad_w) / 2 - p.origin_w + 1;
    s->pad_h = halo_h - p.origin_h;
    s->pad_w = halo_w - p.origin_w;
    s->pitch = fc_ceil_div(s->cols + halo_w, LANES) * LANES;
    p.pitch = fc_ceil_div(s->cols, LANES) * LANES;
    const ptrdiff_t row_bytes = (s->pitch + 2 * p.pitch) * (ptrdiff_t)sizeof(real);
    d->block_rows = fc_clip(FC_ROWS_BYTES / row_bytes, fc_min(FC_ROWS_TILE, s->rows), s->rows);
    d->blocks_h = fc_ceil_div(s->rows, d->block_rows);
    d->block_rows = fc_ceil_div(s->rows, d->blocks_h);
    s->packed_rows = d->block_rows + halo_h;
    s->plane = s->channel = s->packed_rows * s->pitch + LANES;
    d->box_bytes = fc_round_up((size_t)(s->plane + halo_w + LANES) * sizeof(real));
    p.phase_bytes = fc_round_up((size_t)(d->block_rows * p.pitch) * sizeof(real));
    d->column_bytes = fc_round_up((size_t)g->S * sizeof(ptrdiff_t));
    d->weights_bytes = fc_round_up((size_t)(g->K * g->R * g->S) * sizeof(real));
    return p;
}

/* x[2 j] = first[j], x[2 j + 1] = second[j] for a row of W; an even row's last vectors overlap. */
static void FC(interleave_row)(const real *first, const real *second, ptrdiff_t W, real *x) {
    const ptrdiff_t last = W >= 2 * LANES && W % 2 == 0 ? W - 2 * LANES : W;
    for (ptrdiff_t at = 0; at < W; at += 2 * LANES) {
        const ptrdiff_t to = fc_min(at, last);
        const vec a = FC(load)(first + to / 2), b = FC(load)(second + to / 2);
        if (to + 2 * LANES <= W) {
            FC(store)(x + to, FC(zip_low)(a, b));
            FC(store)(x + to + LANES, FC(zip_high)(a, b));
        } else {
            FC(store_lanes)(x + to, FC(zip_low)(a, b), FC(inside)(to, W));
            FC(store_lanes)(x + to + LANES, FC(zip_high)(a, b), FC(inside)(to + LANES, W));
        }
    }
}

static void FC(depthwise_strided_item)(void *context, ptrdiff_t i, int number) {
    const FC(depthwise_strided) *p = context;
    const FC(depthwise) *d = &p->d;
    const fc_stencil *s = &d->s;
    const fc_geometry *g = &d->g;
    char *const space = d->boxes + (size_t)number * (d->box_bytes + 2 * p->phase_bytes);
    real *const box = (real *)space, *const phases = (real *)(space + d->box_bytes);
    const ptrdiff_t plane = i / d->blocks_h, i0 = i % d->blocks_h * d->block_rows;
    const ptrdiff_t rows = fc_min(d->block_rows, s->rows - i0), halo_h = (g->R - 1) / 2, halo_w = (g->S - 1) / 2;
    const real *y = (const real *)d->call->y + plane * s->src_channel;
    real *x = (real *)d->call->x + plane * g->H * g->W;
    FC(pack_box)(s, y, i0, 0, rows + halo_h, box);
    const real *w = d->weights + plane % g->groups * g->R * g->S;
    for (ptrdiff_t a = 0; a < 2; a++) {
        const ptrdiff_t down = (g->R - a + 1) / 2;
        for (ptrdiff_t b = 0; b < 2; b++) {
            const ptrdiff_t across = (g->S - b + 1) / 2;
            FC(row_run) run = {.x_row = s->pitch, .taps = across, .column = d->column, .w = w, .cols = p->pitch};
            run.x = box + (halo_h + 1 - down) * s->pitch + halo_w + 1 - across;
            run.y = phases + (size_t)b * p->phase_bytes / sizeof(real);
            run.y_row = p->pitch;
            FC(row_block)(down, 1, run, rows);
            w += down * across;
        }
        for (ptrdiff_t row = 0; row < rows; row++) {
            const ptrdiff_t h = 2 * (i0 + row + p->origin_h) + a - g->pad_h;
            const real *even = phases + row * p->pitch, *odd = even + p->phase_bytes / sizeof(real);
            if (h < 0 || h >= g->H)
                continue;
            if (g->pad_w % 2) /* the first even column lies in the padding */
                FC(interleave_row)(odd, even + 1, g->W, x + h * g->W);
            else
                FC(interleave_row)(even, odd, g->W, x + h * g->W);
        }
    }
}

static size_t FC(depthwise_strided_bytes)(const fc_geometry *g, int threads) {
    const FC(depthwise_strided) p = FC(plan_depthwise_strided)(g);
    return p.d.column_bytes + p.d.weights_bytes + (size_t)threads * (p.d.box_bytes + 2 * p.phase_bytes);
}

static void FC(depthwise_strided_run)(const fc_call *call, int threads) {
    FC(depthwise_strided) p = FC(plan_depthwise_strided)(&call->geometry);
    FC(depthwise) *d = &p.d;
    const ptrdiff_t R = d->g.R, S = d->g.S;
    char *at = call->workspace;
    d->call = call;
    d->column = (ptrdiff_t *)at;
    d->weights = (real *)(at + d->column_bytes);
    d->boxes = at + d->column_bytes + d->weights_bytes;
    for (ptrdiff_t q = 0; q < S; q++)
        d->column[q] = q;
    real *to = d->weights;
    int poisoned = 0;
    for (const real *w = call->w; w < (const real *)call->w + d->g.K * R * S; w += R * S)
        for (ptrdiff_t a = 0; a < 2; a++)
            for (ptrdiff_t b = 0; b < 2; b++)
                for (ptrdiff_t r = (R - 1 - a) / 2 * 2 + a; r >= 0; r -= 2)
                    for (ptrdiff_t q = (S - 1 - b) / 2 * 2 + b; q >= 0; q -= 2) {
                        *to = w[r * S + q];
                        poisoned |= *to - *to != 0;
                        to++;
                    }
    if (poisoned) { /* the zeros around y times an infinite weight would be NaN where x does not depend on it */
        FC(small_backward_input)(call);
        return;
    }
    fc_parallel(threads, d->g.N * d->g.groups * d->blocks_h, call->keep_denormals, FC(depthwise_strided_item), &p);
}
