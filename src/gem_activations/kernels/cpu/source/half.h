/* Conversions of bfloat16 and float16 to float, and back with one rounding to nearest, ties to even. */

static void widen_bfloat16(float *out, const uint16_t *half, int64_t count)
{
    for (int64_t i = 0; i < count; i++) out[i] = float_of((uint32_t)half[i] << 16);
}

static void narrow_bfloat16(uint16_t *half, const float *x, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        const uint32_t bits = bits_of(x[i]);
        const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        const uint32_t quiet = (bits >> 16) | 0x40u; /* rounding could carry a NaN into infinity */
        half[i] = (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
    }
}

/* float16 in plain integer and float operations, for processors without conversion instructions. */
static ALWAYS_INLINE float widen_one(uint16_t half)
{
    const uint32_t magnitude = (uint32_t)(half & 0x7fffu) << 13, sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t exponent = magnitude & 0x0f800000u;
    const uint32_t normal = magnitude + ((127u - 15u) << 23);
    const uint32_t special = magnitude + ((255u - 31u) << 23);
    const uint32_t subnormal = bits_of(float_of(magnitude + (113u << 23)) - 0x1p-14f);
    const uint32_t bits = exponent == 0x0f800000u ? special : exponent == 0 ? subnormal : normal;
    return float_of(bits | sign);
}

static ALWAYS_INLINE uint16_t narrow_one(float x)
{
    const uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffffu, sign = (bits >> 16) & 0x8000u;
    const uint32_t odd = (magnitude >> 13) & 1u;
    const uint32_t normal = (magnitude - ((127u - 15u) << 23) + 0xfffu + odd) >> 13;
    /* Adding 1/2 aligns a subnormal's last place with the float's, so that the addition rounds it. */
    const uint32_t subnormal = bits_of(float_of(magnitude < 0x38800000u ? magnitude : 0) + 0.5f) - 0x3f000000u;
    const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
    const uint32_t large = magnitude > 0x7f800000u ? 0x7e00u | ((magnitude >> 13) & 0x3ffu) : 0x7c00u;
    return (uint16_t)(sign | (magnitude >= 0x477ff000u ? large : finite));
}

#if GEM_HAS_AVX512
static void widen_float16(float *out, const uint16_t *half, int64_t count)
{
    int64_t i = 0;
    for (; i + 16 <= count; i += 16)
        _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(half + i))));
    for (; i < count; i++) out[i] = widen_one(half[i]);
}

static void narrow_float16(uint16_t *half, const float *x, int64_t count)
{
    int64_t i = 0;
    for (; i + 16 <= count; i += 16)
        _mm256_storeu_si256((__m256i *)(half + i), _mm512_cvtps_ph(_mm512_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
    for (; i < count; i++) half[i] = narrow_one(x[i]);
}
#elif GEM_HAS_F16C
static void widen_float16(float *out, const uint16_t *half, int64_t count)
{
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(half + i))));
    for (; i < count; i++) out[i] = widen_one(half[i]);
}

static void narrow_float16(uint16_t *half, const float *x, int64_t count)
{
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        _mm_storeu_si128((__m128i *)(half + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
    for (; i < count; i++) half[i] = narrow_one(x[i]);
}
#else
static void widen_float16(float *out, const uint16_t *half, int64_t count)
{
    for (int64_t i = 0; i < count; i++) out[i] = widen_one(half[i]);
}

static void narrow_float16(uint16_t *half, const float *x, int64_t count)
{
    for (int64_t i = 0; i < count; i++) half[i] = narrow_one(x[i]);
}
#endif
