/* The three transforms of a Winograd convolution, and the ways of planes and weights into and out of them.
 *
 * An axis has the interpolation points 0, infinity and pairs +-p: p = 1/sqrt(2), sqrt(2) for the 6 points of an axis of
 * a plane (1e-6 to 4e-6 of the largest output off in float32, where the customary 1, 2 is 5e-6 to 1e-5 off at the same
 * cost), p = 1/2, 1, 2 for the 8 of a row (1e-6 to 3e-6; 12 other triples no better). A row of B^T holds the
 * coefficients of the product of (x - q) over the other finite points q. The divisors that theory gives to G are in A,
 * where they cost nothing. */

/* ---- one line of points, taps or outputs */

/* t = B^T d */
FC_INLINE void FC(winograd_inputs)(const int points, const vec *d, vec *t) {
    if (points == 1) {
        t[0] = d[0];
    } else if (points == FC_WINOGRAD_POINTS_2D) {
        const vec even_near = d[4] - 2 * d[2], odd_near = d[3] - 2 * d[1];
        const vec even_far = d[4] - (real)0.5 * d[2], odd_far = d[3] - (real)0.5 * d[1];
        t[0] = d[0] + d[4] - (real)2.5 * d[2];
        t[1] = even_near + (real)0.70710678118654752440 * odd_near;
        t[2] = even_near - (real)0.70710678118654752440 * odd_near;
        t[3] = even_far + (real)1.41421356237309504880 * odd_far;
        t[4] = even_far - (real)1.41421356237309504880 * odd_far;
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
}

/* Of pair number `pair` of an axis: p to a power, and that over its divisor. Literals at every call: constants. */
FC_INLINE real FC(winograd_power)(const int points, const int pair, const int exponent) {
    double p = 1, power = 1;
    if (points == FC_WINOGRAD_POINTS_2D)
        p = pair == 0 ? 0.70710678118654752440 : 1.41421356237309504880;
    else
        p = pair == 0 ? 0.5 : pair == 1 ? 1 : 2;
    FC_UNROLL for (int i = 0; i < exponent; i++) power *= p;
    return (real)power;
}

FC_INLINE real FC(winograd_divided)(const int points, const int pair, const int exponent) {
    double divisor = 1;
    if (points == FC_WINOGRAD_POINTS_2D)
        divisor = pair == 0 ? -1.5 : 6;
    else
        divisor = pair == 0 ? 1.40625 : pair == 1 ? -4.5 : 90;
    return (real)((double)FC(winograd_power)(points, pair, exponent) / divisor);
}

/* t = G g, but for the divisors */
FC_INLINE void FC(winograd_kernel)(const int points, const int taps, const vec *g, vec *t) {
    t[0] = g[0];
    t[points - 1] = g[taps - 1];
    FC_UNROLL for (int pair = 0; pair < points / 2 - 1; pair++) {
        vec even = g[0], odd = FC(winograd_power)(points, pair, 1) * g[1];
        FC_UNROLL for (int i = 2; i < taps; i += 2) even += FC(winograd_power)(points, pair, i) * g[i];
        FC_UNROLL for (int i = 3; i < taps; i += 2) odd += FC(winograd_power)(points, pair, i) * g[i];
        t[1 + 2 * pair] = even + odd;
        t[2 + 2 * pair] = even - odd;
    }
}

/* y = A^T m, with the divisors */
FC_INLINE void FC(winograd_outputs)(const int points, const int outputs, const vec *m, vec *y) {
    if (points == 1) {
        y[0] = m[0];
        return;
    }
    vec even[3], odd[3];
    FC_UNROLL for (int pair = 0; pair < points / 2 - 1; pair++) {
        even[pair] = m[1 + 2 * pair] + m[2 + 2 * pair];
        odd[pair] = m[1 + 2 * pair] - m[2 + 2 * pair];
    }
    FC_UNROLL for (int j = 0; j < outputs; j++) {
        vec sum = j == 0 ? m[0] : j == outputs - 1 ? m[points - 1] : (vec){0};
        FC_UNROLL for (int pair = 0; pair < points / 2 - 1; pair++)
            sum += FC(winograd_divided)(points, pair, j) * (j % 2 ? odd : even)[pair];
        y[j] = sum;
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
FC_INLINE void FC(winograd_transform_by)(const int points_h, const int points_w, const fc_winograd *p,
                                         const fc_segment *s, const real *from, ptrdiff_t channels, real *columns,
                                         real *v) {
    const fc_winograd_axis *h = &p->h, *w = &p->w;
    const ptrdiff_t v_rows = p->chunks * p->v_chunk;
    v += s->first / p->rows * v_rows;
    ptrdiff_t tile = s->first % p->rows;
    for (ptrdiff_t th = s->h0; th < s->h1; th++)
        for (ptrdiff_t w0 = s->w0; w0 < s->w1; w0 += p->span) {
            const ptrdiff_t tiles = fc_min(p->span, s->w1 - w0), left = fc_tile_start(w, w0) - w->pad;
            const ptrdiff_t count = fc_tile_start(w, tiles - 1) + (points_w - 1) * w->step + 1;
            for (ptrdiff_t i = 0; i < points_h; i++) {
                const ptrdiff_t row = fc_tile_start(h, th) + i * h->step - h->pad;
                FC(winograd_row)(p, row >= 0 && row < h->from ? from + row * w->from : NULL, left, count, channels,
                                 columns + i * LANES);
            }
            if (points_h > 1)
                for (real *at = columns; at < columns + count * points_h * LANES; at += points_h * LANES) {
                    vec line[FC_WINOGRAD_POINTS_2D], t[FC_WINOGRAD_POINTS_2D];
                    FC_UNROLL for (int i = 0; i < points_h; i++) line[i] = FC(load)(at + i * LANES);
                    FC(winograd_inputs)(points_h, line, t);
                    FC_UNROLL for (int i = 0; i < points_h; i++) FC(store)(at + i * LANES, t[i]);
                }
            for (ptrdiff_t tw = 0; tw < tiles; tw++) {
                const real *at = columns + fc_tile_start(w, tw) * points_h * LANES;
                real *to = v + tile * LANES;
                for (int i = 0; i < points_h; i++, at += LANES) {
                    vec line[FC_WINOGRAD_POINTS_1D], t[FC_WINOGRAD_POINTS_1D];
                    FC_UNROLL for (int j = 0; j < points_w; j++)
                        line[j] = FC(load)(at + j * w->step * points_h * LANES);
                    FC(winograd_inputs)(points_w, line, t);
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
    if (p->h.points == 1)
        FC(winograd_transform_by)(1, FC_WINOGRAD_POINTS_1D, p, s, from, channels, columns, v);
    else
        FC(winograd_transform_by)(FC_WINOGRAD_POINTS_2D, FC_WINOGRAD_POINTS_2D, p, s, from, channels, columns, v);
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
FC_INLINE void FC(winograd_weights_of)(const int R, const int S, const fc_winograd *p, const real *w, ptrdiff_t there,
                                       ptrdiff_t room, real *u) {
    const int points_h = R == 1 ? 1 : FC_WINOGRAD_POINTS_2D, taps = R * S;
    const int points_w = R == 1 ? FC_WINOGRAD_POINTS_1D : FC_WINOGRAD_POINTS_2D;
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
        if (R == 1)
            t[s][0] = line[0];
        else
            FC(winograd_kernel)(points_h, R, line, t[s]);
    }
    FC_UNROLL for (int i = 0; i < points_h; i++) {
        vec line[FC_WINOGRAD_TAPS_1D], all[FC_WINOGRAD_POINTS_1D];
        FC_UNROLL for (int s = 0; s < S; s++) line[s] = t[s][i];
        FC(winograd_kernel)(points_w, S, line, all);
        FC_UNROLL for (int j = 0; j < points_w; j++) FC(store)(u + (i * points_w + j) * POINT, all[j]);
    }
}

/* In-channels in0 .. in1 of `vectors` vectors of out-channels, the first at `w`, of which `there` channels exist, to
 * u[f][in][vectors]. Weights that lie together are read together, and asked for some time before. */
FC_INLINE void FC(winograd_weights_by)(const int R, const int S, const fc_winograd *p, const real *w, ptrdiff_t there,
                                       ptrdiff_t room, ptrdiff_t in0, ptrdiff_t in1, ptrdiff_t vectors, real *u) {
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
                FC(winograd_weights_of)(R, S, p, w + first, there - k * LANES, room - first, to);
            }
}

FC_NOINLINE void FC(winograd_weights)(const fc_winograd *p, const real *w, ptrdiff_t there, ptrdiff_t room,
                                      ptrdiff_t in0, ptrdiff_t in1, ptrdiff_t vectors, real *u) {
    if (p->h.taps == 1)
        switch (p->w.taps) {
        case 2: FC(winograd_weights_by)(1, 2, p, w, there, room, in0, in1, vectors, u); break;
        case 3: FC(winograd_weights_by)(1, 3, p, w, there, room, in0, in1, vectors, u); break;
        case 4: FC(winograd_weights_by)(1, 4, p, w, there, room, in0, in1, vectors, u); break;
        case 5: FC(winograd_weights_by)(1, 5, p, w, there, room, in0, in1, vectors, u); break;
        case 6: FC(winograd_weights_by)(1, 6, p, w, there, room, in0, in1, vectors, u); break;
        case 7: FC(winograd_weights_by)(1, 7, p, w, there, room, in0, in1, vectors, u); break;
        }
    else
        switch (p->w.taps) {
        case 3: FC(winograd_weights_by)(3, 3, p, w, there, room, in0, in1, vectors, u); break;
        case 5: FC(winograd_weights_by)(5, 5, p, w, there, room, in0, in1, vectors, u); break;
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
    const ptrdiff_t step_h = p->h.step, step_w = p->w.step, point = p->m_point, rows = r->rows, cols = r->cols;
    const fc_segment *s = r->segment;
    const real *m = r->m;
    const vec bias = r->bias;
    vec poison = {0};
    for (ptrdiff_t th = 0; th < s->h1 - s->h0; th++) {
        const ptrdiff_t i0 = fc_tile_start(&p->h, th);
        for (ptrdiff_t tw = 0; tw < s->w1 - s->w0; tw++, m += r->width) {
            const ptrdiff_t j0 = fc_tile_start(&p->w, tw);
            vec half[4][FC_WINOGRAD_POINTS_1D];
            FC_UNROLL for (int j = 0; j < points_w; j++) {
                vec line[FC_WINOGRAD_POINTS_2D], y[4];
                FC_UNROLL for (int i = 0; i < points_h; i++) line[i] = FC(load)(m + (i * points_w + j) * point);
                FC(winograd_outputs)(points_h, out_h, line, y);
                FC_UNROLL for (int i = 0; i < out_h; i++) half[i][j] = y[i];
            }
            real *to = r->outputs + (i0 * cols + j0) * LANES;
            const int inside = j0 + (out_w - 1) * step_w < cols;
            FC_UNROLL for (int i = 0; i < out_h; i++, to += step_h * cols * LANES) {
                if (i0 + i * step_h >= rows)
                    break;
                vec y[FC_WINOGRAD_TAPS_1D];
                FC(winograd_outputs)(points_w, out_w, half[i], y);
                FC_UNROLL for (int j = 0; j < out_w; j++)
                    if (inside || j0 + j * step_w < cols) {
                        poison += y[j] * 0;
                        FC(store)(to + j * step_w * LANES, y[j] + bias);
                    }
            }
        }
    }
    return poison;
}

FC_NOINLINE vec FC(winograd_inverse)(const fc_winograd *p, const FC(winograd_result) *r) {
    if (p->h.taps == 1)
        switch (p->w.outputs) {
        case 2: return FC(winograd_inverse_by)(1, 8, 1, 2, p, r);
        case 3: return FC(winograd_inverse_by)(1, 8, 1, 3, p, r);
        case 4: return FC(winograd_inverse_by)(1, 8, 1, 4, p, r);
        case 5: return FC(winograd_inverse_by)(1, 8, 1, 5, p, r);
        case 6: return FC(winograd_inverse_by)(1, 8, 1, 6, p, r);
        default: return FC(winograd_inverse_by)(1, 8, 1, 7, p, r);
        }
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
