/* direct, whole planes: forward of 2-D layers of stride 1 with few products to a sum, whose rows do not fill vectors.
 *
 * For each column of the kernel a copy of the plane is packed, shifted by that column and as wide as a row of y. Then
 * taps lie at one distance from all outputs of a plane, which are one run, as a signal's are (direct_row.h): no vector
 * ends with a row. An item is an image, a group and a part of the output channels. Workspace: the table of taps, and
 * the copies for each worker. */

typedef struct {
    const fc_call *call;
    fc_geometry g;
    fc_stencil s;             /* of one copy */
    ptrdiff_t copy;           /* from one to the next */
    ptrdiff_t taps, outputs, parts;
    ptrdiff_t *offsets;
    char *boxes;
    size_t offsets_bytes, box_bytes;
} FC(direct_plane);

static FC(direct_plane) FC(plan_direct_plane)(const fc_geometry *g, int threads) {
    FC(direct_plane) d = {.g = *g, .s = fc_x_stencil(g), .outputs = g->K / g->groups};
    fc_stencil *s = &d.s;
    d.taps = s->channels * g->R * g->S;
    s->halo_w = 0;
    s->pitch = g->Q;
    s->packed_rows = g->P + s->halo_h;
    s->plane = s->channel = s->packed_rows * s->pitch + LANES;
    d.copy = s->channels * s->channel;
    const ptrdiff_t items = g->N * g->groups, whole = fc_ceil_div(d.outputs, FC_SIGNAL_CHANNELS);
    d.parts = threads > 1 ? fc_clip(fc_ceil_div(4 * (ptrdiff_t)threads, items), 1, whole) : 1;
    d.offsets_bytes = fc_round_up((size_t)d.taps * sizeof(ptrdiff_t));
    d.box_bytes = fc_round_up((size_t)(g->S * d.copy) * sizeof(real));
    return d;
}

/* Whether forward takes this way: rows that do not fill vectors, enough outputs to be worth the copies, and no more
 * products than make their start-up count. Against rows of direct.h, which compute the columns at their ends twice:
 * 1 to 32 channels of 3x3 on 28 columns 1.2 times as fast, on 22 1.4, on 14 2.6 (Zen 3); on 32 columns 0.96. */
static int FC(direct_by_planes)(const fc_geometry *g) {
    const ptrdiff_t channels = g->C / g->groups, outputs = g->K / g->groups, products = channels * g->R * g->S;
    const ptrdiff_t lanes = FC_VECTOR_BYTES / (ptrdiff_t)sizeof(float), rows = g->P + (g->R - 1) * g->dilation_h;
    if (g->R == 1 || g->stride_h > 1 || g->stride_w > 1 || products > FC_SIGNAL_SHORT || g->Q % lanes == 0)
        return 0;
    if (g->P * g->Q < 4 * FC_SIGNAL_VECTORS * lanes || outputs * g->R * g->P < FC_PLANES_USES * rows)
        return 0;
    return channels * g->S * rows * g->Q * (ptrdiff_t)sizeof(real) <= FC_PLANES_BYTES;
}

static void FC(direct_plane_item)(void *context, ptrdiff_t i, int number) {
    const FC(direct_plane) *d = context;
    const fc_geometry *g = &d->g;
    fc_stencil s = d->s;
    real *const box = (real *)(d->boxes + (size_t)number * d->box_bytes);
    const ptrdiff_t part = i % d->parts, group = i / d->parts % g->groups, image = i / d->parts / g->groups;
    const ptrdiff_t first = fc_part(d->outputs, d->parts, part), after = fc_part(d->outputs, d->parts, part + 1);
    const real *const x = (const real *)d->call->x + image * s.src_image + group * s.channels * s.src_channel;
    for (ptrdiff_t q = 0; q < g->S; q++, s.pad_w -= g->dilation_w)
        FC(pack_box)(&s, x, 0, 0, g->P, box + q * d->copy);
    FC(signal_run) run = {.x = box, .offset = d->offsets, .taps = d->taps, .cols = g->P * g->Q};
    run.y_channel = run.cols;
    run.bias_step = d->call->bias && d->call->bias_per_position;
    run.bias_channel = run.bias_step ? run.cols : 1;
    const ptrdiff_t channel = group * d->outputs + first;
    run.w = (const real *)d->call->w + channel * d->taps;
    run.y = (real *)d->call->y + (image * g->K + channel) * run.cols;
    if (d->call->bias)
        run.bias = (const real *)d->call->bias + channel * run.bias_channel;
    FC(run_signals)(after - first, run);
}

static size_t FC(direct_plane_bytes)(const fc_geometry *g, int threads) {
    const FC(direct_plane) d = FC(plan_direct_plane)(g, threads);
    return d.offsets_bytes + (size_t)threads * d.box_bytes;
}

static void FC(direct_plane_forward)(const fc_call *call, int threads) {
    const fc_geometry *g = &call->geometry;
    FC(direct_plane) d = FC(plan_direct_plane)(g, threads);
    d.call = call;
    d.offsets = call->workspace;
    d.boxes = (char *)call->workspace + d.offsets_bytes;
    ptrdiff_t *offset = d.offsets;
    for (ptrdiff_t c = 0; c < d.s.channels; c++)
        for (ptrdiff_t r = 0; r < g->R; r++)
            for (ptrdiff_t q = 0; q < g->S; q++)
                *offset++ = q * d.copy + c * d.s.channel + r * g->dilation_h * g->Q;
    fc_parallel(threads, g->N * g->groups * d.parts, call->keep_denormals, FC(direct_plane_item), &d);
}
