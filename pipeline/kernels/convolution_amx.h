/* By tiles (AMX_BF16): an instruction adds, to 16x16 sums, the products of 16 rows of 32 numbers and 16 columns of as many.
 * The rows here are input channels, the columns output channels, and what is summed is 32 pixels. So x is packed by
 * channel, its pixels one after another, and dy by pairs of pixels. Part of convolution.cpp.
 *
 * Pixels are counted as those of dy, row after row, with `2 * pad` columns of zeros after each; of 3x3 at stride 2, x is
 * taken apart into four images by whether row and column are even. Then each tap is x beside dy some pixels earlier or
 * later. It is dy that is shifted: its pairs are whole lines of a cache wherever a tap starts, which the rows of x
 * would not be, and of 3x3 it is packed twice for that, once with pairs that start at even pixels, once at odd ones.
 */
#include <sys/syscall.h>
#include <unistd.h>

namespace amx {
enum { PIXELS = 2 * LANES, SUMS = 5 };

/* Tiles, after those of sums. They have to be named by constants that the preprocessor knows. */
#define DY 6
#define X 7

/* Compilers must not move writes to `of` past this: of what tiles are loaded from they know the address only. Writes after
 * the sums stay there, since _tile_stored says that it writes to memory. */
static inline void compiler_barrier(const void *of) { __asm__ volatile("" : : "r"(of) : "memory"); }

struct Packed : Layer {
    int64_t phases; /* images that x is taken apart into, by row and by column */
    int64_t group, offset[PIXELS]; /* rows that are packed at a time, and where in x their pixels are */
    int64_t pitch, steps, before; /* pixels of a row; tiles of 32 pixels in an image; zeros around dy */
    int64_t x_channel, x_phase, x_block, x_image, y_copy, y_block, y_image;
    int64_t in_all; /* words of a chunk */

    Packed(const int64_t *n, int64_t size, int64_t splits) : Layer(n, size, splits) {
        phases = kernel == 1 ? 1 : stride;
        group = out_width > PIXELS ? 1 : PIXELS / out_width;
        for (int64_t i = 0; i < PIXELS; i++)
            offset[i] = (group == 1 ? i : i / out_width * width + i % out_width) * stride * inputs;
        pitch = out_width + 2 * pad;
        steps = (out_height * pitch + PIXELS - 1) / PIXELS;
        before = pad * (pitch + 2);
        x_channel = (steps | 1) * PIXELS; /* channels at powers of two would share a cache's few ways */
        x_phase = block * x_channel, x_block = phases * phases * x_phase, x_image = inputs / block * x_block;
        y_copy = (2 * before + steps * PIXELS) * LANES;
        y_block = kernel == 1 ? y_copy : 2 * y_copy, y_image = some / LANES * y_block;
        in_all = size * (x_image + y_image) / 2;
    }

    /* Write the zeros among packed pixels, which lie at the same places in all chunks, and set this thread's tiles up. */
    void begin(uint32_t *packed) const {
        memset(packed, 0, in_all * sizeof *packed);
        struct {
            uint8_t palette, start_row, reserved[14];
            uint16_t bytes[16];
            uint8_t rows[16];
        } config = {};
        config.palette = 1;
        for (int tile = 0; tile <= X; tile++) config.bytes[tile] = 64, config.rows[tile] = tile == DY ? (int64_t)LANES : block;
        compiler_barrier(&config);
        _tile_loadconfig(&config);
    }

    void end() const { _tile_release(); }
};

/* Linux lets a process use tiles once it has asked. */
static bool permitted() {
    enum { REQUEST = 0x1023, TILE_DATA = 18 }; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

/* 16 words of 16 vectors: word j of vector i becomes word i of vector j. */
static inline void transpose(__m512i v[LANES]) {
    __m512i t[LANES];
    for (int i = 0; i < LANES; i += 2)
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]), t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    for (int i = 0; i < LANES; i += 4)
        for (int j = 0; j < 2; j++) {
            v[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
            v[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    for (int i = 0; i < LANES; i += 8)
        for (int j = 0; j < 4; j++) {
            t[i + j] = _mm512_shuffle_i32x4(v[i + j], v[i + j + 4], 0x88);
            t[i + j + 4] = _mm512_shuffle_i32x4(v[i + j], v[i + j + 4], 0xdd);
        }
    for (int j = 0; j < 8; j++) {
        v[j] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0x88);
        v[j + 8] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0xdd);
    }
}

/* 16 channels of a phase of an image; x points to its first pixel. */
static void pack_input(const bf16 *x, bf16 *to, const Packed &s) {
    for (int64_t r = 0; r < s.out_height; r += s.group)
        for (int64_t c = 0; c < s.out_width; c += PIXELS) {
            int64_t rows = r + s.group < s.out_height ? s.group : s.out_height - r;
            int64_t columns = c + PIXELS < s.out_width ? (int64_t)PIXELS : s.out_width - c;
            const bf16 *from = x + (r * s.width + c) * s.stride * s.inputs;
            __m512i v[LANES];
            for (int i = 0; i < LANES; i++) /* the width is even: both pixels of a pair or none are there */
                v[i] = 2 * i < rows * columns ? pairs(load(from + s.offset[2 * i]), load(from + s.offset[2 * i + 1]))
                                              : _mm512_setzero_si512();
            transpose(v);
            bf16 *row = to + r * s.pitch + c;
            for (int64_t i = 0; i < rows; i++, row += s.pitch - columns) {
                __mmask32 one = (uint32_t)((1ull << columns) - 1) << (i * columns);
                for (int k = 0; k < LANES; k++) _mm512_mask_storeu_epi16(row + k * s.x_channel, one, v[k]);
            }
        }
}

/* The same of fewer channels. */
static void pack_few(const bf16 *x, bf16 *to, const Packed &s) {
    for (int64_t k = 0; k < s.inputs; k++, to += s.x_channel)
        for (int64_t r = 0; r < s.out_height; r++)
            for (int64_t c = 0; c < s.out_width; c++) to[r * s.pitch + c] = x[(r * s.width + c) * s.stride * s.inputs + k];
}

/* `some` channels of an image. Word p of a row is pixels 2p and 2p + 1; of the other copy, 2p - 1 and 2p. */
static void pack_gradient(const bf16 *dy, bf16 *to, const Packed &s) {
    for (int64_t o = 0; o < s.some; o += LANES, to += s.y_block)
        for (int64_t r = 0; r < s.out_height; r++) {
            const bf16 *from = dy + r * s.out_width * s.outputs + o;
            bf16 *even = to + (s.before + r * s.pitch) * LANES, *odd = even + s.y_copy;
            __m512i last = _mm512_setzero_si512();
            for (int64_t p = 0; p < s.out_width; p += 2, even += PIXELS, odd += PIXELS) {
                __m512i left = _mm512_cvtepu16_epi32(load(from + p * s.outputs));
                __m512i right = _mm512_cvtepu16_epi32(load(from + (p + 1) * s.outputs));
                _mm512_store_si512(even, _mm512_or_si512(left, _mm512_slli_epi32(right, 16)));
                if (s.pad) _mm512_store_si512(odd, _mm512_or_si512(last, _mm512_slli_epi32(left, 16)));
                last = right;
            }
            if (s.pad) _mm512_store_si512(odd, last);
        }
}

/* A tile of x beside a tile of dy, and where its sums go. */
struct Pair {
    const bf16 *x, *dy;
    float *sums;
};

#define FOR_SUMS(DO) DO(0) DO(1) DO(2) DO(3) DO(4)

/* Of N pairs, which have the same x, or else the same dy. */
template <int N, bool SAME_X> static void sums_of(const Pair *pair, int64_t images, const Packed &s) {
#define ZERO(n) \
    if (n < N) _tile_zero(n);
#define ADD(n) \
    if (n < N) { \
        if (SAME_X) \
            _tile_loadd(DY, pair[n].dy + y, 2 * PIXELS); \
        else \
            _tile_loadd(X, pair[n].x + x, 2 * s.x_channel); \
        _tile_dpbf16ps(n, X, DY); \
    }
#define KEEP(n) \
    if (n < N) _tile_stored(n, pair[n].sums, s.outputs * sizeof(float));
    FOR_SUMS(ZERO)
    for (int64_t image = 0; image < images; image++) {
        int64_t x = image * s.x_image, y = image * s.y_image;
        for (int64_t step = 0; step < s.steps; step++, x += PIXELS, y += PIXELS * LANES) {
            if (SAME_X)
                _tile_loadd(X, pair[0].x + x, 2 * s.x_channel);
            else
                _tile_loadd(DY, pair[0].dy + y, 2 * PIXELS);
            FOR_SUMS(ADD)
        }
    }
    FOR_SUMS(KEEP)
}

template <bool SAME_X> static void sums_of(const Pair *pair, int n, int64_t images, const Packed &s) {
    if (n == 1) sums_of<1, SAME_X>(pair, images, s);
    if (n == 2) sums_of<2, SAME_X>(pair, images, s);
    if (n == 3) sums_of<3, SAME_X>(pair, images, s);
    if (n == 4) sums_of<4, SAME_X>(pair, images, s);
    if (n == 5) sums_of<5, SAME_X>(pair, images, s);
}

/* 16 input and output channels, all taps. `dy` is where its block starts, `part` where the first of the sums goes. */
static void taps_of(const bf16 *x, const bf16 *dy, float *part, int64_t images, const Packed &s) {
    for (int64_t phase = 0; phase < s.phases * s.phases; phase++, x += s.x_phase) {
        Pair pair[SUMS];
        int n = 0;
        for (int64_t tap = 0; tap < 9; tap++) {
            int64_t i = tap / 3 - 1, j = tap % 3 - 1;
            int64_t i_odd = i & (s.phases - 1), j_odd = j & (s.phases - 1);
            if (i_odd * s.phases + j_odd != phase) continue;
            int64_t first = s.before - (i - i_odd) / s.stride * s.pitch - (j - j_odd) / s.stride;
            const bf16 *at = first % 2 ? dy + s.y_copy + (first + 1) * LANES : dy + first * LANES;
            pair[n++] = {x, at, part + tap * s.inputs * s.outputs};
            if (n < SUMS) continue;
            sums_of<true>(pair, n, images, s);
            n = 0;
        }
        sums_of<true>(pair, n, images, s);
    }
}

/* part[tap][input][output] of `images` images, all input channels and `some` output channels. */
static void chunk(const bf16 *x, const bf16 *dy, float *part, uint32_t *packed, int64_t images, const Packed &s) {
    bf16 *ys = (bf16 *)packed, *xs = ys + s.size * s.y_image;
    for (int64_t i = 0; i < images; i++) {
        bf16 *to = xs + i * s.x_image;
        for (int64_t c = 0; c < s.inputs; c += s.block)
            for (int64_t row = 0; row < s.phases; row++)
                for (int64_t column = 0; column < s.phases; column++, to += s.x_phase)
                    (s.few ? pack_few : pack_input)(x + (row * s.width + column) * s.inputs + c, to, s);
        x += s.height * s.width * s.inputs;
        pack_gradient(dy, ys + i * s.y_image, s);
        dy += s.out_height * s.out_width * s.outputs;
    }
    compiler_barrier(packed);
    for (int64_t o = 0; o < s.some; o += LANES, ys += s.y_block, part += LANES)
        for (int64_t c = 0; c < s.inputs; c += s.kernel == 1 ? SUMS * LANES : s.block) {
            if (s.kernel == 3) {
                taps_of(xs + c / s.block * s.x_block, ys, part + c * s.outputs, images, s);
                continue;
            }
            Pair pair[SUMS];
            int n = 0;
            for (int64_t i = c; n < SUMS && i < s.inputs; i += LANES)
                pair[n++] = {xs + i / LANES * s.x_block, ys, part + i * s.outputs};
            sums_of<false>(pair, n, images, s);
        }
}
} // namespace amx

#undef DY
#undef X
#undef FOR_SUMS
#undef ZERO
#undef ADD
#undef KEEP
