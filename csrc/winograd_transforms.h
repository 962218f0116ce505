/* The three transforms of a Winograd convolution, and the ways of planes and weights into and out of them.
 *
 * An axis has the interpolation points 0, infinity and pairs +-p: p = 1/sqrt(2), sqrt(2) for the 6 points of an axis of
 * a plane (1e-6 to 4e-6 of the largest output off in float32, where the customary 1, 2 is 5e-6 to 1e-5 off at the same
 * cost), p = 1/2, 1, 2 for the 8 of a row (1e-6 to 3e-6; 12 other triples no better). A row of B^T holds the
 * coefficients of the product of (x - q) over the other finite points q. The divisors that theory gives to G are in A,
 * where they cost nothing.
 *
 * At stride 2 an axis has two phases: the first has the 8 points of a row, or those 6 without infinity, and the second
 * no transform at all. */

/* ---- one line of points, taps or outputs */

/* t = B^T d */
FC_INLINE void FC(winograd_inputs)(const int points, const vec *d, vec *t) {
    const int first = (int)fc_first_phase(points);
    if (first == 1) {
        t[0] = d[0];
    } else if (first <= FC_WINOGRAD_POINTS_2D) {
        const vec even_near = d[4] - 2 * d[2], odd_near = d[3] - 2 * d[1];
        const vec even_far = d[4] - (real)0.5 * d[2], odd_far = d[3] - (real)0.5 * d[1];
        t[0] = d[0] + d[4] - (real)2.5 * d[2];
        t[1] = even_near + (real)0.70710678118654752440 * odd_near;
        t[2] = even_near - (real)0.70710678118654752440 * odd_near;
        t[3] = even_far + (real)1.41421356237309504880 * odd_far;
        t[4] = even_far - (real)1.41421356237309504880 * odd_far;
        if (first == FC_WINOGRAD_POINTS_2D)
            t[5] = d[5] + d[1] - (real)2.5 * d[3];
    } else {
        const vec even_near = d[6] - 5 * d[4] + 4 * d[2], odd_near = d[5] - 5 * d[3] + 4 * d[1];
        const vec even_one = d[6] - (real)4.25 * d[4] + d[2], odd_one = d[5] - (real)4.25 * d[3] + d[1];
        const vec even_far = d[6] - (real)1.25 * d[4] + (real)0.25 * d[2];
        const vec odd_far = d[5] - (real)1.25 * d[3] + (real)0.25 * d[1];
        t[0] = d[0] - d[6] + (real)5.25 * (d[4] - d[2]);
        t[1] = even_near + (real)0.5 * odd_near;
        t[2] = even_near - (real)0.5 * odd_near;
        t[3] = even_one + odd_one;
        t[4] = even_one - odd_one;
        t[5] = even_far + 2 * odd_far;
        t[6] = even_far - 2 * odd_far;
        t[7] = d[7] - d[1] + (real)5.25 * (d[3] - d[5]);
    }
    FC_UNROLL for (int i = first; i < points; i++) t[i] = d[i];
}

/* Of pair number `pair` of an axis: p to a power, and that over its divisor. Literals at every call: constants. */
FC_INLINE real FC(winograd_power)(const int points, const int pair, const int exponent) {
    double p = 1, power = 1;
    if (points <= FC_WINOGRAD_POINTS_2D)
        p = pair == 0 ? 0.70710678118654752440 : 1.41421356237309504880;
    else
        p = pair == 0 ? 0.5 : pair == 1 ? 1 : 2;
    FC_UNROLL for (int i = 0; i < exponent; i++) power *= p;
    return (real)power;
}

FC_INLINE real FC(winograd_divided)(const int points, const int pair, const int exponent) {
    double divisor = 1;
    if (points <= FC_WINOGRAD_POINTS_2D)
        divisor = pair == 0 ? -1.5 : 6;
    else
        divisor = pair == 0 ? 1.40625 : pair == 1 ? -4.5 : 90;
    return (real)((double)FC(winograd_power)(points, pair, exponent) / divisor);
}

/* t = G g of one phase, but for the divisors */
FC_INLINE void FC(winograd_kernel_phase)(const int points, const int taps, const vec *g, vec *t) {
    t[0] = g[0];
    if (points % 2 == 0)
        t[points - 1] = g[taps - 1];
    FC_UNROLL for (int pair = 0; pair < (points - 1) / 2; pair++) {
        vec even = g[0], odd = FC(winograd_power)(points, pair, 1) * g[1];
        FC_UNROLL for (int i = 2; i < taps; i += 2) even += FC(winograd_power)(points, pair, i) * g[i];
        FC_UNROLL for (int i = 3; i < taps; i += 2) odd += FC(winograd_power)(points, pair, i) * g[i];
        t[1 + 2 * pair] = even + odd;
        t[2 + 2 * pair] = even - odd;
    }
}

/* t = G g, where weights differ */
FC_INLINE void FC(winograd_kernel)(const int points, const int taps, const vec *g, vec *t) {
    const int first = (int)fc_first_phase(points);
    if (points == 1) {
        t[0] = g[0];
    } else if (first == points) {
        FC(winograd_kernel_phase)(points, taps, g, t);
    } else {
        const vec ends[2] = {g[0], g[2]};
        FC(winograd_kernel_phase)(first, 2, ends, t);
        t[first] = g[1];
    }
}

/* y = A^T m of one phase, with the divisors */
FC_INLINE void FC(winograd_outputs_phase)(const int points, const int outputs, const vec *m, vec *y) {
    if (points == 1) {
        y[0] = m[0];
        return;
    }
    vec even[3], odd[3];
    FC_UNROLL for (int pair = 0; pair < (points - 1) / 2; pair++) {
        even[pair] = m[1 + 2 * pair] + m[2 + 2 * pair];
        odd[pair] = m[1 + 2 * pair] - m[2 + 2 * pair];
    }
    FC_UNROLL for (int j = 0; j < outputs; j++) {
        vec sum = j == 0 ? m[0] : j == outputs - 1 && points % 2 == 0 ? m[points - 1] : (vec){0};
        FC_UNROLL for (int pair = 0; pair < (points - 1) / 2; pair++)
            sum += FC(winograd_divided)(points, pair, j) * (j % 2 ? odd : even)[pair];
        y[j] = sum;
    }
}

/* y = A^T m, the outputs of two phases added, or one after the other where there are as many outputs. */
FC_INLINE void FC(winograd_outputs)(const int points, const int outputs, const vec *m, vec *y) {
    const int first = (int)fc_first_phase(points), second = points - first;
    FC(winograd_outputs_phase)(first, second ? second : outputs, m, y);
    FC_UNROLL for (int j = 0; j < second; j++)
        if (outputs == second)
            y[j] += m[first + j];
        else
            y[second + j] = m[first + j];
}

/* t = A y of one phase, with the divisors */
FC_INLINE void FC(winograd_spread_phase)(const int points, const int outputs, const vec *y, vec *t) {
    t[0] = y[0];
    if (points % 2 == 0)
        t[points - 1] = y[outputs - 1];
    FC_UNROLL for (int pair = 0; pair < (points - 1) / 2; pair++) {
        vec even = {0}, odd = {0};
        FC_UNROLL for (int j = 0; j < outputs; j += 2) even += FC(winograd_divided)(points, pair, j) * y[j];
        FC_UNROLL for (int j = 1; j < outputs; j += 2) odd += FC(winograd_divided)(points, pair, j) * y[j];
        t[1 + 2 * pair] = even + odd;
        t[2 + 2 * pair] = even - odd;
    }
}

/* t = A y: what the gradients of a tile's outputs are in its points, where phases are added. */
FC_INLINE void FC(winograd_spread)(const int points, const int outputs, const vec *y, vec *t) {
    const int first = (int)fc_first_phase(points);
    if (points == 1)
        t[0] = y[0];
    else
        FC(winograd_spread_phase)(first, outputs, y, t);
    FC_UNROLL for (int i = first; i < points; i++) t[i] = y[i - first];
}

/* Where output j of a tile lies, counted from its first. */
FC_INLINE ptrdiff_t FC(winograd_place)(const int points, const int outputs, const fc_winograd_axis *a, const int j) {
    const int phase = points - (int)fc_first_phase(points);
    if (outputs <= phase || !phase)
        return j * a->step;
    return j < phase ? 2 * j + a->lead : 2 * (j - phase) + 1 - a->lead;
}

/* The inputs of a tile, `apart` elements from each other, phase by phase. */
FC_INLINE void FC(winograd_line)(const int points, const fc_winograd_axis *a, const real *at, ptrdiff_t apart,
                                 vec *line) {
    const int first = (int)fc_first_phase(points);
    const real *second = at + a->second * apart;
    if (first < points)
        apart *= a->apart;
    FC_UNROLL for (int i = 0; i < first; i++) line[i] = FC(load)(at + i * apart);
    FC_UNROLL for (int i = first; i < points; i++) line[i] = FC(load)(second + (i - first) * apart);
}

/* A tile's inputs to its points, or the gradients of its outputs: `outputs` of them, else 0. */
FC_INLINE void FC(winograd_points)(const int points, const int outputs, const fc_winograd_axis *a, const real *at,
                                   ptrdiff_t apart, vec *t) {
    vec line[FC_WINOGRAD_LINE];
    if (outputs) {
        FC_UNROLL for (int i = 0; i < outputs; i++) line[i] = FC(load)(at + i * apart);
        FC(winograd_spread)(points, outputs, line, t);
    } else {
        FC(winograd_line)(points, a, at, apart, line);
        FC(winograd_inputs)(points, line, t);
    }
}

/* turn() where only some rows or columns are there, to vectors `apart` from each other in memory; of the others, rows
 * come as zero and columns not at all. */
static void FC(turn_some)(const real *p, ptrdiff_t step, ptrdiff_t rows, ptrdiff_t columns, real *to, ptrdiff_t apart) {
    for (ptrdiff_t c = 0; c < columns; c++)
        for (ptrdiff_t r = 0; r < LANES; r++)
            to[c * apart + r] = r < rows ? p[r * step + c] : 0;
}

/* ---- inputs to v */

/* One row of LANES channels, or of as many as there are, turned: to[j * apart] is column left + j of it, 0 <= j <
 * count. `row`: column 0 of the first channel, NULL where the row is outside. */
static void FC(winograd_row)(const fc_winograd *p, const real *row, ptrdiff_t left, ptrdiff_t count, ptrdiff_t channels,
                             real *to) {
    const ptrdiff_t plane = p->h.from * p->w.from, apart = p->h.points * LANES;
    const ptrdiff_t lo = row ? fc_clip(-left, 0, count) : count, hi = fc_clip(p->w.from - left, lo, count);
    for (ptrdiff_t j = 0; j < lo; j++)
        FC(store)(to + j * apart, (vec){0});
    for (ptrdiff_t j = hi; j < count; j++)
        FC(store)(to + j * apart, (vec){0});
    if (channels < LANES || hi - lo < FC_TURN) {
        if (lo < hi)
            FC(turn_some)(row + left + lo, plane, channels, hi - lo, to + lo * apart, apart);
        return;
    }
    for (ptrdiff_t next = lo; next < hi; next += FC_TURN) {
        const ptrdiff_t j = fc_min(next, hi - FC_TURN); /* the last ones overlap those before: the same numbers again */
        vec out[FC_TURN];
        FC(turn)(row + left + j, plane, out);
        FC_UNROLL for (int c = 0; c < FC_TURN; c++) FC(store)(to + (j + c) * apart, out[c]);
    }
}

/* One chunk of channels of a segment, the first at `from`, to the v of that chunk. Some tiles of a row at a time, so
 * that what is half done, columns[column][points of h], stays in level 1. */
FC_INLINE void FC(winograd_transform_by)(const int points_h, const int points_w, const int out_h, const int out_w,
                                         const fc_winograd *p, const fc_segment *s, const real *from,
                                         ptrdiff_t channels, real *columns, real *v) {
    const fc_winograd_axis *h = &p->h, *w = &p->w;
    const ptrdiff_t v_rows = p->chunks * p->v_chunk;
    v += s->first / p->rows * v_rows;
    ptrdiff_t tile = s->first % p->rows;
    for (ptrdiff_t th = s->h0; th < s->h1; th++)
        for (ptrdiff_t w0 = s->w0; w0 < s->w1; w0 += p->span) {
            const ptrdiff_t tiles = fc_min(p->span, s->w1 - w0), left = fc_tile_source(w, w0) - w->pad;
            const ptrdiff_t count = fc_tile_source(w, tiles - 1) + (w->inputs - 1) * w->step + 1;
            for (ptrdiff_t i = 0; i < h->inputs; i++) {
                const ptrdiff_t row = fc_tile_source(h, th) + i * h->step - h->pad;
                FC(winograd_row)(p, row >= 0 && row < h->from ? from + row * w->from : NULL, left, count, channels,
                                 columns + i * LANES);
            }
            if (points_h > 1)
                for (real *at = columns; at < columns + count * points_h * LANES; at += points_h * LANES) {
                    vec t[FC_WINOGRAD_LINE];
                    FC(winograd_points)(points_h, out_h, h, at, LANES, t);
                    FC_UNROLL for (int i = 0; i < points_h; i++) FC(store)(at + i * LANES, t[i]);
                }
            for (ptrdiff_t tw = 0; tw < tiles; tw++) {
                const real *at = columns + fc_tile_source(w, tw) * points_h * LANES;
                real *to = v + tile * LANES;
                for (int i = 0; i < points_h; i++, at += LANES) {
                    vec t[FC_WINOGRAD_LINE];
                    FC(winograd_points)(points_w, out_w, w, at, w->step * points_h * LANES, t);
                    FC_UNROLL for (int j = 0; j < points_w; j++, to += p->v_point) FC(store)(to, t[j]);
                }
                if (++tile == p->rows) {
                    tile = 0;
                    v += v_rows;
                }
            }
        }
}

static void FC(winograd_transform)(const fc_winograd *p, const fc_segment *s, const real *from, ptrdiff_t channels,
                                   real *columns, real *v) {
    switch (p->points) {
    case 8: FC(winograd_transform_by)(1, 8, 0, 0, p, s, from, channels, columns, v); break;
    case 15: FC(winograd_transform_by)(1, 15, 0, 0, p, s, from, channels, columns, v); break;
    case 36: FC(winograd_transform_by)(6, 6, 0, 0, p, s, from, channels, columns, v); break;
    case 81: FC(winograd_transform_by)(9, 9, 0, 0, p, s, from, channels, columns, v); break;
    }
}

/* The same of gradients of outputs. */
static void FC(winograd_transform_gradients)(const fc_winograd *p, const fc_segment *s, const real *from,
                                             ptrdiff_t channels, real *columns, real *u) {
    if (p->points == 81)
        FC(winograd_transform_by)(9, 9, 4, 4, p, s, from, channels, columns, u);
    else if (p->points == 15)
        FC(winograd_transform_by)(1, 15, 1, 7, p, s, from, channels, columns, u);
    else if (p->h.taps == 1)
        switch (p->w.outputs) {
        case 2: FC(winograd_transform_by)(1, 8, 1, 2, p, s, from, channels, columns, u); break;
        case 3: FC(winograd_transform_by)(1, 8, 1, 3, p, s, from, channels, columns, u); break;
        case 4: FC(winograd_transform_by)(1, 8, 1, 4, p, s, from, channels, columns, u); break;
        case 5: FC(winograd_transform_by)(1, 8, 1, 5, p, s, from, channels, columns, u); break;
        case 6: FC(winograd_transform_by)(1, 8, 1, 6, p, s, from, channels, columns, u); break;
        case 7: FC(winograd_transform_by)(1, 8, 1, 7, p, s, from, channels, columns, u); break;
        }
    else if (p->w.outputs == 4)
        FC(winograd_transform_by)(6, 6, 4, 4, p, s, from, channels, columns, u);
    else
        FC(winograd_transform_by)(6, 6, 2, 2, p, s, from, channels, columns, u);
}

/* ---- weights to u */

/* The kernels of LANES out-channels, of which `there` exist, and one in-channel, turned. `room`: elements from `at` to
 * the end of the weights. */
FC_INLINE void FC(winograd_turn_kernel)(const int taps, const real *at, ptrdiff_t w_out, ptrdiff_t there,
                                        ptrdiff_t room, vec *g) {
    if (there >= LANES && (taps >= FC_TURN || room >= (LANES - 1) * w_out + FC_TURN)) {
        FC_UNROLL for (int k = 0; k < taps; k += FC_TURN) {
            const int first = k + FC_TURN <= taps || taps < FC_TURN ? k : taps - FC_TURN; /* the last ones overlap */
            FC(turn)(at + first, w_out, g + first);
        }
    } else {
        real held[FC_WINOGRAD_TAPS * (FC_VECTOR_BYTES / sizeof(real))];
        FC(turn_some)(at, w_out, there, taps, held, LANES);
        FC_UNROLL for (int k = 0; k < taps; k++) g[k] = FC(load)(held + k * LANES);
    }
}

/* One vector of out-channels of in-channel 0 at `w`, of which `there` channels exist, to u[f]. */
FC_INLINE void FC(winograd_weights_of)(const int R, const int S, const int points, const fc_winograd *p, const real *w,
                                       ptrdiff_t there, ptrdiff_t room, real *u) {
    const int taps = R * S, points_h = R == 1 ? 1 : points;
    const int rows = (int)fc_weight_points(points_h), columns = (int)fc_weight_points(points);
    vec g[FC_WINOGRAD_TAPS + FC_TURN], t[FC_WINOGRAD_TAPS_1D][FC_WINOGRAD_POINTS_2D];
    FC(winograd_turn_kernel)(taps, w, p->w_out, there, room, g);
    if (p->flipped)
        FC_UNROLL for (int i = 0; i < taps / 2; i++) {
            const vec swap = g[i];
            g[i] = g[taps - 1 - i];
            g[taps - 1 - i] = swap;
        }
    FC_UNROLL for (int s = 0; s < S; s++) {
        vec line[FC_WINOGRAD_TAPS_2D];
        FC_UNROLL for (int r = 0; r < R; r++) line[r] = g[r * S + s];
        FC(winograd_kernel)(points_h, R, line, t[s]);
    }
    FC_UNROLL for (int i = 0; i < rows; i++) {
        vec line[FC_WINOGRAD_TAPS_1D], all[FC_WINOGRAD_LINE];
        FC_UNROLL for (int s = 0; s < S; s++) line[s] = t[s][i];
        FC(winograd_kernel)(points, S, line, all);
        FC_UNROLL for (int j = 0; j < columns; j++) FC(store)(u + (i * columns + j) * POINT, all[j]);
    }
}

/* In-channels in0 .. in1 of `vectors` vectors of out-channels, the first at `w`, of which `there` channels exist, to
 * u[f][in][vectors]. Weights that lie together are read together, and asked for some time before. */
FC_INLINE void FC(winograd_weights_by)(const int R, const int S, const int points, const fc_winograd *p, const real *w,
                                       ptrdiff_t there, ptrdiff_t room, ptrdiff_t in0, ptrdiff_t in1,
                                       ptrdiff_t vectors, real *u) {
    const ptrdiff_t run = p->flipped ? 1 : in1 - in0;
    for (ptrdiff_t c0 = in0; c0 < in1; c0 += run)
        for (ptrdiff_t k = 0; k < vectors; k++)
            for (ptrdiff_t c = c0; c < fc_min(c0 + run, in1); c++) {
                const ptrdiff_t first = k * LANES * p->w_out + c * p->w_in;
                const real *ahead = w + first + FC_WINOGRAD_AHEAD * p->w_in;
                if (p->flipped)
                    for (int i = 0; i < R * S * LANES; i += FC_LINE / sizeof(real))
                        __builtin_prefetch(ahead + i);
                else
                    for (int i = 0; i < LANES; i++)
                        __builtin_prefetch(ahead + i * p->w_out);
                real *to = u + (c - in0) / DEPTH * p->u_slab + ((c - in0) % DEPTH * vectors + k) * LANES;
                FC(winograd_weights_of)(R, S, points, p, w + first, there - k * LANES, room - first, to);
            }
}

FC_NOINLINE void FC(winograd_weights)(const fc_winograd *p, const real *w, ptrdiff_t there, ptrdiff_t room,
                                      ptrdiff_t in0, ptrdiff_t in1, ptrdiff_t vectors, real *u) {
    if (p->points == 81)
        FC(winograd_weights_by)(3, 3, 9, p, w, there, room, in0, in1, vectors, u);
    else if (p->points == 15)
        FC(winograd_weights_by)(1, 3, 15, p, w, there, room, in0, in1, vectors, u);
    else if (p->h.taps == 1)
        switch (p->w.taps) {
        case 2: FC(winograd_weights_by)(1, 2, 8, p, w, there, room, in0, in1, vectors, u); break;
        case 3: FC(winograd_weights_by)(1, 3, 8, p, w, there, room, in0, in1, vectors, u); break;
        case 4: FC(winograd_weights_by)(1, 4, 8, p, w, there, room, in0, in1, vectors, u); break;
        case 5: FC(winograd_weights_by)(1, 5, 8, p, w, there, room, in0, in1, vectors, u); break;
        case 6: FC(winograd_weights_by)(1, 6, 8, p, w, there, room, in0, in1, vectors, u); break;
        case 7: FC(winograd_weights_by)(1, 7, 8, p, w, there, room, in0, in1, vectors, u); break;
        }
    else
        switch (p->w.taps) {
        case 3: FC(winograd_weights_by)(3, 3, 6, p, w, there, room, in0, in1, vectors, u); break;
        case 5: FC(winograd_weights_by)(5, 5, 6, p, w, there, room, in0, in1, vectors, u); break;
        }
}

/* ---- m to outputs */

/* LANES channels of one segment's outputs before they are turned, outputs[row][column][LANES], rows x cols of them. */
typedef struct {
    const fc_segment *segment;
    const real *m; /* of the first tile; the next one's is `width` further */
    ptrdiff_t width, rows, cols;
    vec bias;
    real *outputs;
} FC(winograd_result);

/* Returns a vector that is 0 where all is finite, and NaN in some lane where not. */
FC_INLINE vec FC(winograd_inverse_by)(const int points_h, const int points_w, const int out_h, const int out_w,
                                      const fc_winograd *p, const FC(winograd_result) *r) {
    const ptrdiff_t step_w = p->w.step, point = p->m_point, rows = r->rows, cols = r->cols;
    const fc_segment *s = r->segment;
    const real *m = r->m;
    const vec bias = r->bias;
    vec poison = {0};
    for (ptrdiff_t th = 0; th < s->h1 - s->h0; th++) {
        const ptrdiff_t i0 = fc_tile_start(&p->h, th);
        for (ptrdiff_t tw = 0; tw < s->w1 - s->w0; tw++, m += r->width) {
            const ptrdiff_t j0 = fc_tile_start(&p->w, tw);
            vec half[2 * FC_WINOGRAD_PHASE_2D][FC_WINOGRAD_LINE];
            FC_UNROLL for (int j = 0; j < points_w; j++) {
                vec line[FC_WINOGRAD_LINE], y[2 * FC_WINOGRAD_PHASE_2D];
                FC_UNROLL for (int i = 0; i < points_h; i++) line[i] = FC(load)(m + (i * points_w + j) * point);
                FC(winograd_outputs)(points_h, out_h, line, y);
                FC_UNROLL for (int i = 0; i < out_h; i++) half[i][j] = y[i];
            }
            const int inside = j0 + (out_w - 1) * step_w < cols;
            FC_UNROLL for (int i = 0; i < out_h; i++) {
                const ptrdiff_t row = i0 + FC(winograd_place)(points_h, out_h, &p->h, i);
                if (row >= rows)
                    continue;
                vec y[FC_WINOGRAD_LINE];
                FC(winograd_outputs)(points_w, out_w, half[i], y);
                FC_UNROLL for (int j = 0; j < out_w; j++) {
                    const ptrdiff_t column = j0 + FC(winograd_place)(points_w, out_w, &p->w, j);
                    if (inside || column < cols) {
                        poison += y[j] * 0;
                        FC(store)(r->outputs + (row * cols + column) * LANES, y[j] + bias);
                    }
                }
            }
        }
    }
    return poison;
}

FC_NOINLINE vec FC(winograd_inverse)(const fc_winograd *p, const FC(winograd_result) *r) {
    if (p->points == 15)
        return p->flipped ? FC(winograd_inverse_by)(1, 15, 1, 14, p, r) : FC(winograd_inverse_by)(1, 15, 1, 7, p, r);
    if (p->h.taps == 1)
        switch (p->w.outputs) {
        case 2: return FC(winograd_inverse_by)(1, 8, 1, 2, p, r);
        case 3: return FC(winograd_inverse_by)(1, 8, 1, 3, p, r);
        case 4: return FC(winograd_inverse_by)(1, 8, 1, 4, p, r);
        case 5: return FC(winograd_inverse_by)(1, 8, 1, 5, p, r);
        case 6: return FC(winograd_inverse_by)(1, 8, 1, 6, p, r);
        default: return FC(winograd_inverse_by)(1, 8, 1, 7, p, r);
        }
    if (p->points == 81)
        return p->flipped ? FC(winograd_inverse_by)(9, 9, 8, 8, p, r) : FC(winograd_inverse_by)(9, 9, 4, 4, p, r);
    return p->w.outputs == 4 ? FC(winograd_inverse_by)(6, 6, 4, 4, p, r) : FC(winograd_inverse_by)(6, 6, 2, 2, p, r);
}

/* Up to LANES channels of `outputs`, `pixels` of them one after the other, to planes. */
static void FC(winograd_store)(const real *outputs, ptrdiff_t pixels, ptrdiff_t channels, ptrdiff_t plane, real *to,
                               const real *bias) {
    for (ptrdiff_t c = 0; c < channels; c += FC_TURN) { /* outer, so that stores go to few pages at a time */
        /* the first vector ends where a line does: a store across two lines costs twice as much */
        const ptrdiff_t head = LANES - (ptrdiff_t)((uintptr_t)(to + c * plane) / sizeof(real)) % LANES;
        for (ptrdiff_t j = 0, next; j < pixels; j = next) {
            next = fc_min(j ? j + LANES : head, pixels);
            const FC(lanes) lanes = FC(between)(0, next - j);
            vec row[FC_TURN];
            FC(turn)(outputs + j * LANES + c, LANES, row);
            FC_UNROLL for (int k = 0; k < FC_TURN; k++) {
                if (c + k >= channels)
                    break;
                const ptrdiff_t at = (c + k) * plane + j;
                const vec all = bias ? row[k] + FC(load_lanes)(bias + at, lanes) : row[k];
                if (next - j == LANES)
                    FC(store)(to + at, all);
                else
                    FC(store_lanes)(to + at, all, lanes);
            }
        }
    }
}
