/* small: the definition as plain loops, for a handful of numbers. No packing, no workspace, no threads.
 *
 * Covers every geometry, at 1.5 to 3 ns a multiply-add: 45 ns for a 4-element call, where `direct` takes 500 to set up.
 * The sum over one kernel row (or one output row, for the weights) is kept apart from the total, so that the error of
 * long sums stays near that of the blocked kernels. Also the exact way for backward_input where a weight is infinite or
 * NaN, as it touches just the outputs that are there. */

static const char *FC(small_unwise_forward)(const fc_geometry *g, int threads) {
    (void)threads;
    return fc_multiply_adds(g) > FC_SMALL_FORWARD ? "more multiply-adds than plain loops are good for" : NULL;
}

static const char *FC(small_unwise_backward)(const fc_geometry *g, int threads) {
    (void)threads;
    return fc_multiply_adds(g) > FC_SMALL_BACKWARD ? "more multiply-adds than plain loops are good for" : NULL;
}

/* y (N, K, P, Q) = x (N, C, H, W) * w (K, C/groups, R, S) + bias, one output at a time. */
static void FC(small_forward)(const fc_call *call) {
    const fc_geometry g = call->geometry;
    const real *x = call->x, *w = call->w, *bias = call->bias;
    real *y = call->y;
    const ptrdiff_t Cg = fc_share(g.C, g.groups), Kg = fc_share(g.K, g.groups), reach = (g.S - 1) * g.dilation_w;
    const fc_fpmode before = fc_fpmode_enter(call->keep_denormals);
    for (ptrdiff_t n = 0; n < g.N; n++)
        for (ptrdiff_t k = 0; k < g.K; k++) {
            const ptrdiff_t first = g.groups == 1 ? 0 : k / Kg * Cg;
            const real *xk = x + (n * g.C + first) * g.H * g.W, *wk = w + k * Cg * g.R * g.S;
            for (ptrdiff_t p = 0; p < g.P; p++)
                for (ptrdiff_t q = 0; q < g.Q; q++) {
                    real sum = 0;
                    for (ptrdiff_t c = 0; c < Cg; c++)
                        for (ptrdiff_t r = 0; r < g.R; r++) {
                            const ptrdiff_t h = p * g.stride_h + r * g.dilation_h - g.pad_h;
                            const int row_inside = h >= 0 && h < g.H;
                            const real *row = row_inside ? xk + (c * g.H + h) * g.W : x;
                            const real *taps = wk + (c * g.R + r) * g.S;
                            const ptrdiff_t v = q * g.stride_w - g.pad_w;
                            real part = 0;
                            if (row_inside && v >= 0 && v + reach < g.W)
                                for (ptrdiff_t s = 0; s < g.S; s++)
                                    part += taps[s] * row[v + s * g.dilation_w];
                            else
                                for (ptrdiff_t s = 0; s < g.S; s++) {
                                    const ptrdiff_t at = v + s * g.dilation_w;
                                    part += taps[s] * (row_inside && at >= 0 && at < g.W ? row[at] : 0);
                                }
                            sum += part;
                        }
                    if (bias)
                        sum += call->bias_per_position ? bias[(k * g.P + p) * g.Q + q] : bias[k];
                    *y++ = sum;
                }
        }
    fc_fpmode_leave(before);
}

/* x (N, C, H, W) = the transpose of forward applied to y (N, K, P, Q): each y is scattered over the x it came from. */
static void FC(small_backward_input)(const fc_call *call) {
    const fc_geometry g = call->geometry;
    const real *y = call->y, *w = call->w;
    real *x = call->x;
    const ptrdiff_t Cg = fc_share(g.C, g.groups), Kg = fc_share(g.K, g.groups);
    const fc_fpmode before = fc_fpmode_enter(call->keep_denormals);
    memset(x, 0, (size_t)(g.N * g.C * g.H * g.W) * sizeof *x);
    for (ptrdiff_t n = 0; n < g.N; n++)
        for (ptrdiff_t k = 0; k < g.K; k++) {
            real *xk = x + (n * g.C + (g.groups == 1 ? 0 : k / Kg * Cg)) * g.H * g.W;
            const real *wk = w + k * Cg * g.R * g.S;
            for (ptrdiff_t p = 0; p < g.P; p++)
                for (ptrdiff_t q = 0; q < g.Q; q++) {
                    const real gradient = *y++;
                    for (ptrdiff_t c = 0; c < Cg; c++)
                        for (ptrdiff_t r = 0; r < g.R; r++) {
                            const ptrdiff_t h = p * g.stride_h + r * g.dilation_h - g.pad_h;
                            if (h < 0 || h >= g.H)
                                continue;
                            real *row = xk + (c * g.H + h) * g.W;
                            const real *taps = wk + (c * g.R + r) * g.S;
                            ptrdiff_t v = q * g.stride_w - g.pad_w;
                            for (ptrdiff_t s = 0; s < g.S; s++, v += g.dilation_w)
                                if (v >= 0 && v < g.W)
                                    row[v] += gradient * taps[s];
                        }
                }
        }
    fc_fpmode_leave(before);
}

/* w (K, C/groups, R, S) = sum over images and outputs of y (N, K, P, Q) times the x (N, C, H, W) under it. */
static void FC(small_backward_weight)(const fc_call *call) {
    const fc_geometry g = call->geometry;
    const real *x = call->x, *y = call->y;
    real *w = call->w;
    const ptrdiff_t Cg = fc_share(g.C, g.groups), Kg = fc_share(g.K, g.groups);
    const fc_fpmode before = fc_fpmode_enter(call->keep_denormals);
    for (ptrdiff_t k = 0; k < g.K; k++)
        for (ptrdiff_t c = 0; c < Cg; c++)
            for (ptrdiff_t r = 0; r < g.R; r++)
                for (ptrdiff_t s = 0; s < g.S; s++) {
                    real sum = 0;
                    for (ptrdiff_t n = 0; n < g.N; n++) {
                        const real *plane = x + (n * g.C + (g.groups == 1 ? 0 : k / Kg * Cg) + c) * g.H * g.W;
                        const real *gradient = y + (n * g.K + k) * g.P * g.Q;
                        for (ptrdiff_t p = 0; p < g.P; p++, gradient += g.Q) {
                            const ptrdiff_t h = p * g.stride_h + r * g.dilation_h - g.pad_h;
                            const int row_inside = h >= 0 && h < g.H;
                            const real *row = row_inside ? plane + h * g.W : x;
                            const ptrdiff_t v = s * g.dilation_w - g.pad_w;
                            real part = 0;
                            if (row_inside && v >= 0 && v + (g.Q - 1) * g.stride_w < g.W)
                                for (ptrdiff_t q = 0; q < g.Q; q++)
                                    part += gradient[q] * row[v + q * g.stride_w];
                            else
                                for (ptrdiff_t q = 0; q < g.Q; q++) {
                                    const ptrdiff_t at = v + q * g.stride_w;
                                    part += gradient[q] * (row_inside && at >= 0 && at < g.W ? row[at] : 0);
                                }
                            sum += part;
                        }
                    }
                    *w++ = sum;
                }
    fc_fpmode_leave(before);
}
