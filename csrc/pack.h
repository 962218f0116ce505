/* Copying one box of the source into its packed form (stencil.h): padded, phases apart, every stride 1.
 *
 * A plane is written one column of vectors after the other, so that which lanes lie inside the source is worked out
 * once for all its rows; from right to left, so that what a row's last vector writes beyond the pitch is overwritten by
 * the next row's own first columns. Wide rows are written one by one, left to right. What lies outside the source is
 * zero and is never read. Strides above 2 go by turns of several phases (simd.h), or else element by element. */

/* Of `rows` packed rows, those from `from` to `end` hold source; the others are zero. */
typedef struct {
    ptrdiff_t rows, from, end, pitch, src_row;
} FC(rows);

/* One column of vectors, stride 1; `whole`: all lanes are inside. */
FC_INLINE void FC(pack_column)(const real *source, FC(lanes) inside, int whole, FC(rows) p, real *to) {
    ptrdiff_t i = 0;
    for (; i < p.from; i++, to += p.pitch)
        FC(store)(to, (vec){0});
    if (whole)
        for (; i < p.end; i++, to += p.pitch, source += p.src_row)
            FC(store)(to, FC(load)(source));
    for (; i < p.end; i++, to += p.pitch, source += p.src_row)
        FC(store)(to, FC(load_lanes)(source, inside));
    for (; i < p.rows; i++, to += p.pitch)
        FC(store)(to, (vec){0});
}

/* The same for stride 2: two vectors of the source give one of each phase; `odd` is NULL where there is one phase. */
FC_INLINE void FC(pack_column_pair)(const real *source, FC(lanes) low, FC(lanes) high, FC(rows) p, real *even,
                                    real *odd) {
    for (ptrdiff_t i = 0, at = 0; i < p.rows; i++, at += p.pitch) {
        vec a = {0}, b = {0};
        if (i >= p.from && i < p.end) {
            a = FC(load_lanes)(source, low);
            b = FC(load_lanes)(source + LANES, high);
            source += p.src_row;
        }
        FC(store)(even + at, FC(unzip_even)(a, b));
        if (odd)
            FC(store)(odd + at, FC(unzip_odd)(a, b));
    }
}

/* Columns from .. end of a row of column phase f, any stride. */
static void FC(pack_strided_columns)(const fc_stencil *s, const real *row, ptrdiff_t f, ptrdiff_t j0, ptrdiff_t from,
                                     ptrdiff_t end, real *to) {
    const ptrdiff_t first = fc_clip(fc_first_column(s, f) - j0, from, end);
    const ptrdiff_t last = fc_clip(fc_end_column(s, f) - j0, first, end);
    const ptrdiff_t start = j0 * s->stride_w + f * s->step_w % s->stride_w - s->pad_w;
    for (ptrdiff_t j = from; j < first; j++)
        to[j] = 0;
    for (ptrdiff_t j = first; j < last; j++)
        to[j] = row[start + j * s->stride_w];
    for (ptrdiff_t j = last; j < end; j++)
        to[j] = 0;
}

/* One row of every column phase, any stride; phase f goes to `to` + f planes. Phases that follow each other in the
 * source are the elements of a turn, LANES columns its rows (stride 8 to 4 channels of 16 taps: the call takes 0.6 of
 * the time, Zen 3). */
static void FC(pack_strided_row)(const fc_stencil *s, const real *row, ptrdiff_t j0, real *to) {
    const ptrdiff_t stride = s->stride_w, phases = s->phases_w, start = j0 * stride - s->pad_w;
    ptrdiff_t from = 0, end = 0; /* columns that are turned: all their phases lie inside */
    if (s->step_w == 1 && phases >= FC_TURN) {
        from = start < 0 ? fc_min(fc_ceil_div(-start, stride), s->pitch) : 0;
        end = s->W < start + phases ? 0 : fc_min((s->W - start - phases) / stride + 1, s->pitch);
        end = end <= from ? from : from + (end - from) / LANES * LANES;
    }
    for (ptrdiff_t j = from; j < end; j += LANES)
        for (ptrdiff_t f = 0; f < phases; f += FC_TURN) {
            const ptrdiff_t at = fc_min(f, phases - FC_TURN);
            vec turned[FC_TURN];
            FC(turn)(row + start + j * stride + at, stride, turned);
            FC_UNROLL for (int i = 0; i < FC_TURN; i++) FC(store)(to + (at + i) * s->plane + j, turned[i]);
        }
    for (ptrdiff_t f = 0; f < phases; f++) {
        FC(pack_strided_columns)(s, row, f, j0, 0, from, to + f * s->plane);
        FC(pack_strided_columns)(s, row, f, j0, end, s->pitch, to + f * s->plane);
    }
}

/* One wide row: lanes are counted at its ends only. */
FC_INLINE vec FC(load_inside)(const real *row, ptrdiff_t at, ptrdiff_t W) {
    return at >= 0 && at + LANES <= W ? FC(load)(row + at) : FC(load_lanes)(row + at, FC(inside)(at, W));
}
static void FC(pack_wide_row)(const real *row, ptrdiff_t left, ptrdiff_t W, ptrdiff_t pitch, real *to) {
    ptrdiff_t j = 0;
    for (; j < pitch && left + j < 0; j += LANES)
        FC(store)(to + j, FC(load_lanes)(row + left + j, FC(inside)(left + j, W)));
    for (const ptrdiff_t end = fc_min(pitch, W - left) - LANES; j <= end; j += LANES)
        FC(store)(to + j, FC(load)(row + left + j));
    for (; j < pitch; j += LANES)
        FC(store)(to + j, FC(load_lanes)(row + left + j, FC(inside)(left + j, W)));
}
static void FC(pack_wide_row_pair)(const real *row, ptrdiff_t left, ptrdiff_t W, ptrdiff_t pitch, real *even,
                                   real *odd) {
    for (ptrdiff_t j = 0; j < pitch; j += LANES) {
        const vec a = FC(load_inside)(row, left + 2 * j, W), b = FC(load_inside)(row, left + 2 * j + LANES, W);
        FC(store)(even + j, FC(unzip_even)(a, b));
        if (odd)
            FC(store)(odd + j, FC(unzip_odd)(a, b));
    }
}

/* The box at grid position (i0, j0), `rows` rows of the grid, all channels of a group; source is the first of them. */
static void FC(pack_box)(const fc_stencil *s, const real *source, ptrdiff_t i0, ptrdiff_t j0, ptrdiff_t rows,
                         real *box) {
    const ptrdiff_t packed_rows = rows + s->halo_h, pitch = s->pitch, plane = s->plane, stride_h = s->stride_h;
    const ptrdiff_t src_row = stride_h * s->src_row, vectors = fc_ceil_div(pitch, LANES), W = s->W;
    const ptrdiff_t left = j0 * s->stride_w - s->pad_w; /* source column of packed column 0 */
    const int wide = vectors >= 8 || packed_rows == 1;
    for (ptrdiff_t f = 0; f < s->phases_h; f++) {
        const ptrdiff_t h = stride_h * i0 + f * s->step_h % stride_h - s->pad_h;
        const ptrdiff_t from = h >= 0 ? 0 : fc_min(fc_ceil_div(-h, stride_h), packed_rows);
        const ptrdiff_t end = h >= s->H ? from : fc_clip(fc_ceil_div(s->H - h, stride_h), from, packed_rows);
        const FC(rows) split = {packed_rows, from, end, pitch, src_row};
        for (ptrdiff_t c = 0; c < s->channels; c++) {
            const real *at = source + c * s->src_channel + (h + from * stride_h) * s->src_row;
            real *to = box + c * s->channel + f * s->phases_w * plane;
            real *odd = s->stride_w == 2 && s->phases_w == 2 ? to + plane : NULL;
            if (s->stride_w <= 2 && wide) {
                for (ptrdiff_t q = 0; q < s->phases_w; q++)
                    memset(to + q * plane, 0, (size_t)(from * pitch) * sizeof(real));
                for (ptrdiff_t i = from; i < end; i++, at += src_row)
                    if (s->stride_w == 1)
                        FC(pack_wide_row)(at, left, W, pitch, to + i * pitch);
                    else
                        FC(pack_wide_row_pair)(at, left, W, pitch, to + i * pitch, odd ? odd + i * pitch : NULL);
                for (ptrdiff_t q = 0; q < s->phases_w; q++)
                    memset(to + q * plane + end * pitch, 0, (size_t)((packed_rows - end) * pitch) * sizeof(real));
            } else if (s->stride_w == 1) {
                for (ptrdiff_t j = (vectors - 1) * LANES; j >= 0; j -= LANES)
                    FC(pack_column)(at + left + j, FC(inside)(left + j, W), left + j >= 0 && left + j + LANES <= W,
                                    split, to + j);
            } else if (s->stride_w == 2) {
                for (ptrdiff_t j = (vectors - 1) * LANES; j >= 0; j -= LANES) {
                    const FC(lanes) low = FC(inside)(left + 2 * j, W), high = FC(inside)(left + 2 * j + LANES, W);
                    FC(pack_column_pair)(at + left + 2 * j, low, high, split, to + j, odd ? odd + j : NULL);
                }
            } else {
                for (ptrdiff_t q = 0; q < s->phases_w; q++) {
                    real *phase = to + q * plane;
                    memset(phase, 0, (size_t)(from * pitch) * sizeof(real));
                    memset(phase + end * pitch, 0, (size_t)((packed_rows - end) * pitch) * sizeof(real));
                }
                for (ptrdiff_t i = from; i < end; i++)
                    FC(pack_strided_row)(s, at + (i - from) * src_row, j0, to + i * pitch);
            }
            for (ptrdiff_t q = 0; q < s->phases_w; q++) /* the zeros right of the last row */
                FC(store)(to + q * plane + packed_rows * pitch, (vec){0});
        }
    }
}
