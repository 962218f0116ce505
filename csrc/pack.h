/* Copying one box of the source into its packed form (stencil.h): padded, phases apart, every stride 1.
 *
 * Rows are written left to right in whole vectors, each row over the overhang of the one before; what lies outside the
 * source is zero and is never read. */

/* One row of all column phases, from packed column j0 on; phase f goes to `to + f * plane`. */
FC_INLINE void FC(pack_row)(const fc_stencil *s, const real *row, ptrdiff_t j0, real *to) {
    if (s->stride_w == 1) {
        const ptrdiff_t shift = j0 - s->pad_w;
        for (ptrdiff_t j = 0; j < s->pitch; j += LANES) {
            const ptrdiff_t at = j + shift;
            if (at >= 0 && at + LANES <= s->W)
                FC(store)(to + j, FC(load)(row + at));
            else
                FC(store)(to + j, FC(load_outer)(row, at, s->W));
        }
    } else if (s->stride_w == 2) {
        for (ptrdiff_t j = 0; j < s->pitch; j += LANES) {
            const ptrdiff_t at = 2 * (j + j0) - s->pad_w;
            const vec a = FC(load_outer)(row, at, s->W), b = FC(load_outer)(row, at + LANES, s->W);
            FC(store)(to + j, FC(unzip_even)(a, b));
            if (s->phases_w == 2)
                FC(store)(to + s->plane + j, FC(unzip_odd)(a, b));
        }
    } else {
        for (ptrdiff_t f = 0; f < s->phases_w; f++, to += s->plane) {
            const ptrdiff_t first = fc_clip(fc_first_column(s, f) - j0, 0, s->pitch);
            const ptrdiff_t end = fc_clip(fc_end_column(s, f) - j0, first, s->pitch);
            const real *from = row + (j0 * s->stride_w + f * s->step_w % s->stride_w - s->pad_w);
            for (ptrdiff_t j = 0; j < first; j++)
                to[j] = 0;
            for (ptrdiff_t j = first; j < end; j++)
                to[j] = from[j * s->stride_w];
            for (ptrdiff_t j = end; j < s->pitch; j++)
                to[j] = 0;
        }
    }
}

/* The box at grid position (i0, j0), `rows` rows of the grid, all channels of one group; source is its first channel. */
static void FC(pack_box)(const fc_stencil *s, const real *source, ptrdiff_t i0, ptrdiff_t j0, ptrdiff_t rows, real *box) {
    const ptrdiff_t packed_rows = rows + s->halo_h;
    for (ptrdiff_t c = 0; c < s->channels; c++, source += s->src_channel, box += s->channel)
        for (ptrdiff_t f = 0; f < s->phases_h; f++) {
            real *to = box + f * s->phases_w * s->plane;
            ptrdiff_t h = s->stride_h * i0 + f * s->step_h % s->stride_h - s->pad_h;
            for (ptrdiff_t i = 0; i < packed_rows; i++, h += s->stride_h, to += s->pitch) {
                if (h >= 0 && h < s->H)
                    FC(pack_row)(s, source + h * s->src_row, j0, to);
                else
                    for (ptrdiff_t q = 0; q < s->phases_w; q++)
                        for (ptrdiff_t j = 0; j < s->pitch; j += LANES)
                            FC(store)(to + q * s->plane + j, (vec){0});
            }
            for (ptrdiff_t q = 0; q < s->phases_w; q++) /* the zeros right of the last row */
                FC(store)(to + q * s->plane, (vec){0});
        }
}
