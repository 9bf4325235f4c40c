/* Convolution, its data gradient and its weight gradient for processors that multiply float32 only (AVX2): bfloat16 is
 * read and written, all arithmetic is float32, as in the instructions that others have for it. What torch has for bfloat16
 * on such a processor takes twenty times as long as float32.
 *
 * A thread takes some rows of an image at a time, in float32 with zeros around, to stay in a core's cache. There a row of
 * taps is one run of neighbours, for any number of channels and any kernel. 12 sums stay in registers: of PIXELS pixels and
 * LANES output channels, or of PIXELS neighbours of that run in the weight gradient. Part of convolution.cpp.
 */
namespace avx2 {
enum { PIXELS = 6, VECTOR = 8, NEAR = 8192 /* float32 of some rows: they and weights stay near */ };

static inline float widened(float v) { return v; }

static inline float widened(bf16 v) {
    uint32_t word = (uint32_t)v << 16;
    float wide;
    memcpy(&wide, &word, sizeof wide);
    return wide;
}

static inline __m256 get(const float *from) { return _mm256_loadu_ps(from); }

static inline __m256 get(const bf16 *from) {
    __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}

/* The 16 bits of the nearest bfloat16, ties to even, in each word; of what is no number those of such. */
static inline __m256i rounded(__m256 v) {
    __m256i bits = _mm256_castps_si256(v), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i none = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    bits = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    return _mm256_blendv_epi8(bits, _mm256_set1_epi32(0x7fc0), none);
}

/* LANES values. */
static inline void put(float *to, __m256 first, __m256 second) {
    _mm256_storeu_ps(to, first);
    _mm256_storeu_ps(to + VECTOR, second);
}

static inline void put(bf16 *to, __m256 first, __m256 second) {
    __m256i mixed = _mm256_packus_epi32(rounded(first), rounded(second)); /* each half of both in turn */
    _mm256_storeu_si256((__m256i *)to, _mm256_permute4x64_epi64(mixed, 0xd8));
}

/* Rows from `from` on of an image [height, row], with `pad` zeros left and right; rows outside are zeros. */
template <class T>
static void unpack(const T *image, float *to, int64_t from, int64_t rows, int64_t height, int64_t row, int64_t pad) {
    for (int64_t r = from; r < from + rows; r++, to += row + 2 * pad) {
        if (r < 0 || r >= height) {
            memset(to, 0, (row + 2 * pad) * sizeof *to);
            continue;
        }
        const T *x = image + r * row;
        memset(to, 0, pad * sizeof *to);
        int64_t i = 0;
        for (; i + VECTOR <= row; i += VECTOR) _mm256_storeu_ps(to + pad + i, get(x + i));
        for (; i < row; i++) to[pad + i] = widened(x[i]);
        memset(to + pad + row, 0, pad * sizeof *to);
    }
}

/* Of rows or of columns: which pixels of the output these are, `at`, at + step, and so on, and what they are sums of: so
 * many `taps` that are neighbours in the input, the first at `from`, from + in_step, and so on. */
struct Side {
    int64_t at, taps, from;
};

/* `inputs` and `outputs` are channels of what is read and written: of dy and dx in the data gradient. There the pixels of
 * dx that leave the same rest by the stride are a convolution of dy, with the taps that meet them. */
struct Direct {
    bool gradient;
    int64_t images, in_height, in_width, inputs, out_height, out_width, outputs, kernel, stride, pad, in_step, out_step;
    int64_t rows, columns; /* of the output at one `at` */
    int64_t band, room;    /* rows of it that are computed at a time; float32 of the input for them */

    Direct(const int64_t *n, bool gradient) : gradient(gradient), images(n[0]), kernel(n[5]), stride(n[6]), pad(kernel / 2) {
        int64_t height = n[1], width = n[2], small_height = height / stride, small_width = width / stride;
        in_height = gradient ? small_height : height, in_width = gradient ? small_width : width;
        out_height = gradient ? height : small_height, out_width = gradient ? width : small_width;
        inputs = n[gradient ? 4 : 3], outputs = n[gradient ? 3 : 4];
        in_step = gradient ? 1 : stride, out_step = gradient ? stride : 1;
        rows = small_height, columns = small_width;
        band = 1;
        while (band < rows && floats(band + 1) <= NEAR) band++;
        room = floats(band);
    }

    int64_t row() const { return (in_width + 2 * pad) * inputs; }
    int64_t floats(int64_t rows) const { return (in_step * (rows - 1) + kernel) * row(); }
    int64_t sides() const { return out_step; }

    Side side(int64_t at) const {
        if (!gradient) return {0, kernel, -pad};
        int64_t first = (at + pad) % stride; /* tap t meets pixel (at + pad - t) / stride of dy: the first one, the last */
        int64_t taps = first < kernel ? (kernel - 1 - first) / stride + 1 : 0;
        return {at, taps, (at + pad - first) / stride - (taps - 1)};
    }

    /* Which row or column of the kernel the side's tap `t` is. */
    int64_t tap(const Side &side, int64_t t) const {
        return gradient ? (side.at + pad) % stride + (side.taps - 1 - t) * stride : t;
    }
};

/* Weights [outputs, kernel, kernel, inputs] of the forward direction, for LANES channels of the output from `o` on, in the
 * order in which they are used. */
static void pack_weights(const float *w, float *to, int64_t o, const Direct &s, bool round) {
    for (int64_t a = 0; a < s.sides(); a++)
        for (int64_t b = 0; b < s.sides(); b++) {
            Side down = s.side(a), across = s.side(b);
            for (int64_t i = 0; i < down.taps; i++)
                for (int64_t j = 0; j < across.taps; j++) {
                    int64_t tap = s.tap(down, i) * s.kernel + s.tap(across, j), taps = s.kernel * s.kernel;
                    for (int64_t c = 0; c < s.inputs; c++)
                        for (int64_t k = 0; k < LANES; k++)
                            *to++ = s.gradient ? w[(c * taps + tap) * s.outputs + o + k] : w[((o + k) * taps + tap) * s.inputs + c];
                }
        }
    if (round)
        for (float *p = to - s.kernel * s.kernel * s.inputs * LANES; p < to; p += VECTOR)
            _mm256_storeu_si256((__m256i *)p, _mm256_slli_epi32(rounded(_mm256_loadu_ps(p)), 16));
}

/* Of PIXELS pixels, whose first taps lie at `at`: sums over `rows` rows of `run` neighbours. */
static inline void pixel_sums(const float *const at[PIXELS], const float *w, int64_t rows, int64_t run, int64_t row,
                              __m256 sums[PIXELS][2]) {
    __m256 sum[PIXELS][2];
    const float *x[PIXELS];
    for (int k = 0; k < PIXELS; k++) x[k] = at[k], sum[k][0] = sum[k][1] = _mm256_setzero_ps();
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t t = 0; t < run; t++, w += LANES) {
            __m256 first = _mm256_load_ps(w), second = _mm256_load_ps(w + VECTOR);
#pragma GCC unroll 6
            for (int k = 0; k < PIXELS; k++) {
                __m256 v = _mm256_broadcast_ss(x[k] + t);
                sum[k][0] = _mm256_fmadd_ps(v, first, sum[k][0]);
                sum[k][1] = _mm256_fmadd_ps(v, second, sum[k][1]);
            }
        }
        for (int k = 0; k < PIXELS; k++) x[k] += row;
    }
    for (int k = 0; k < PIXELS; k++) sums[k][0] = sum[k][0], sums[k][1] = sum[k][1];
}

/* Rows from `first` on, at most a band of them, of the output's pixels at one pair of sides; x as unpacked. */
template <class T>
static void rows_of(const float *x, const float *w, T *y, int64_t o, int64_t first, int64_t rows, const Side &down,
                    const Side &across, const Direct &s) {
    int64_t pixels = rows * s.columns, run = across.taps * s.inputs;
    const float *origin = x;
    if (down.taps && run) origin += (down.from + s.pad) * s.row() + (across.from + s.pad) * s.inputs; /* else read nowhere */
    for (int64_t p = 0; p < pixels; p += PIXELS) {
        const float *at[PIXELS];
        int64_t to[PIXELS];
        for (int k = 0; k < PIXELS; k++) {
            int64_t pixel = p + k < pixels ? p + k : pixels - 1, r = pixel / s.columns, c = pixel % s.columns;
            at[k] = origin + s.in_step * (r * s.row() + c * s.inputs);
            to[k] = ((s.out_step * (first + r) + down.at) * s.out_width + s.out_step * c + across.at) * s.outputs + o;
        }
        __m256 sums[PIXELS][2];
        pixel_sums(at, w, down.taps, run, s.row(), sums);
        for (int k = 0; k < PIXELS && p + k < pixels; k++) put(y + to[k], sums[k][0], sums[k][1]);
    }
}

/* x and y are images of T; `weights` has room for as many as w, `packed` for s.room of each thread. */
template <class T>
static void direct(const T *x, const float *w, T *y, const Direct &s, float *weights, float *packed, int threads) {
    int64_t of_block = s.kernel * s.kernel * s.inputs * LANES, bands = (s.rows + s.band - 1) / s.band;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t o = 0; o < s.outputs; o += LANES) pack_weights(w, weights + o / LANES * of_block, o, s, sizeof(T) == sizeof(bf16));
        float *own = packed + omp_get_thread_num() * s.room;
#pragma omp for schedule(static)
        for (int64_t part = 0; part < s.images * bands; part++) {
            int64_t image = part / bands, first = part % bands * s.band;
            int64_t rows = first + s.band < s.rows ? s.band : s.rows - first;
            unpack(x + image * s.in_height * s.in_width * s.inputs, own, s.in_step * first - s.pad,
                   s.in_step * (rows - 1) + s.kernel, s.in_height, s.in_width * s.inputs, s.pad * s.inputs);
            T *to = y + image * s.out_height * s.out_width * s.outputs;
            for (int64_t o = 0; o < s.outputs; o += LANES) {
                const float *block = weights + o / LANES * of_block;
                for (int64_t a = 0; a < s.sides(); a++)
                    for (int64_t b = 0; b < s.sides(); b++) {
                        Side down = s.side(a), across = s.side(b);
                        rows_of(own, block, to, o, first, rows, down, across, s);
                        block += down.taps * across.taps * s.inputs * LANES;
                    }
            }
        }
    }
}

struct Packed : Layer {
    int64_t band; /* rows of dy that are taken at a time */
    int64_t row, in_all;

    Packed(const int64_t *n, int64_t size, int64_t splits) : Layer(n, size, splits) {
        row = (width + 2 * pad) * inputs;
        band = 1;
        while (band < out_height && floats(band + 1) <= NEAR) band++;
        in_all = (floats(band) + LANES - 1) / LANES * LANES;
    }

    int64_t floats(int64_t rows) const { return (stride * (rows - 1) + kernel) * row + rows * out_width * some; }
    void begin(uint32_t *) const {}
    void end() const {}
};

/* Of PIXELS neighbours in a run of taps, the first at `x` for the first pixel: sums over `rows` by `columns` pixels, which lie
 * at these distances in x and together in y. */
static inline void tap_sums(const float *x, const float *y, int64_t rows, int64_t columns, int64_t row, int64_t step,
                            __m256 sums[PIXELS][2]) {
    __m256 sum[PIXELS][2];
    for (int k = 0; k < PIXELS; k++) sum[k][0] = sum[k][1] = _mm256_setzero_ps();
    for (int64_t r = 0; r < rows; r++, x += row) {
        const float *v = x;
        for (int64_t c = 0; c < columns; c++, v += step, y += LANES) {
            __m256 first = _mm256_load_ps(y), second = _mm256_load_ps(y + VECTOR);
#pragma GCC unroll 6
            for (int k = 0; k < PIXELS; k++) {
                __m256 one = _mm256_broadcast_ss(v + k);
                sum[k][0] = _mm256_fmadd_ps(one, first, sum[k][0]);
                sum[k][1] = _mm256_fmadd_ps(one, second, sum[k][1]);
            }
        }
    }
    for (int k = 0; k < PIXELS; k++) sums[k][0] = sum[k][0], sums[k][1] = sum[k][1];
}

/* part[tap][input][output] of `images` images, all input channels and `some` output channels. */
template <class T>
static void chunk(const T *x, const T *dy, float *part, uint32_t *packed, int64_t images, const Packed &s) {
    int64_t run = s.kernel * s.inputs, step = s.stride * s.inputs;
    for (int64_t t = 0; t < s.kernel * run; t++) memset(part + t * s.outputs, 0, s.some * sizeof *part);
    float *ys = (float *)packed;
    for (int64_t image = 0; image < images; image++)
        for (int64_t first = 0; first < s.out_height; first += s.band) {
            int64_t rows = first + s.band < s.out_height ? s.band : s.out_height - first, pixels = rows * s.out_width;
            float *xs = ys + pixels * s.some;
            for (int64_t p = 0; p < pixels; p++)
                for (int64_t o = 0; o < s.some; o += VECTOR)
                    _mm256_store_ps(ys + o / LANES * pixels * LANES + p * LANES + o % LANES,
                                    get(dy + ((image * s.out_height + first) * s.out_width + p) * s.outputs + o));
            unpack(x + image * s.height * s.width * s.inputs, xs, s.stride * first - s.pad, s.stride * (rows - 1) + s.kernel,
                   s.height, s.width * s.inputs, s.pad * s.inputs);
            for (int64_t o = 0; o < s.some; o += LANES)
                for (int64_t i = 0; i < s.kernel; i++)
                    for (int64_t t = 0; t < run; t += PIXELS) {
                        int64_t from = t + PIXELS <= run ? t : run - PIXELS;
                        __m256 sum[PIXELS][2];
                        tap_sums(xs + i * s.row + from, ys + o * pixels, rows, s.out_width, s.stride * s.row, step, sum);
                        for (int k = (int)(t - from); k < PIXELS; k++) {
                            float *to = part + (i * run + from + k) * s.outputs + o;
                            _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(to), sum[k][0]));
                            _mm256_storeu_ps(to + VECTOR, _mm256_add_ps(_mm256_loadu_ps(to + VECTOR), sum[k][1]));
                        }
                    }
        }
}
} // namespace avx2
