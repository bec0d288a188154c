// grouped_product of GroupedKernels.cu for Hopper with matrices as a format stores them, behind its text and Warpgroup.cu: the same arguments and result. Codes come by asynchronous
// copies three steps ahead and are decoded one step ahead, from shared memory to shared memory, while the tensor cores are at work on the step before. Terms in the rows' type
// (low-rank pairs: a step each) are copied beside them.
//
// What lies outside of a matrix is clamped into it, not zeroed: such columns are not stored, and such k meet zeros of A.

constexpr int A_STAGES = 4, B_STAGES = 3, CODE_STAGES = 4;
constexpr int EIGHTS = 16 / sizeof(Code8), EACH = 8 * EIGHTS;                       // of a piece of 16 bytes; its elements
constexpr int PIECES = BN * BK / EACH / THREADS, CODE_BYTES = BN * BK / EACH * 16;  // of a thread; of a stage
constexpr int B_AT = A_STAGES * A_BYTES, CODES_AT = B_AT + B_STAGES * B_BYTES;
constexpr int ACROSS = (NN ? BN : BK) / EACH;                                       // pieces of a row of the stage
constexpr int CODE_ROWS = NN ? BK : BN;

// Piece j of a thread, as it copies them (neighbours along a row) and as it decodes them (NN: neighbours across rows, whose chunks lie in different banks of shared memory).
struct Piece
{
    int row, part;
    __device__ __forceinline__ Piece(int j, bool decodes)
    {
        int c = threadIdx.x + j * THREADS;
        row = NN && decodes ? c % CODE_ROWS : c / ACROSS;
        part = NN && decodes ? c / CODE_ROWS : c % ACROSS;
    }
    __device__ __forceinline__ int place() const { return (NN ? part * CODE_ROWS + (row ^ (part & 7)) : row * ACROSS + part) * 16; }
};

template <int ROWS>
__device__ __forceinline__ void product(const Product& p, const Term* terms, const Tile& tile, unsigned char* shared)
{
    const int n0 = blockIdx.x * BN;
    int steps = 0;
    for (int t = 0; t < p.count; t++) steps += (terms[t].K + BK - 1) / BK;

    // Each stage of the work walks by itself: codes four steps ahead of the product, A and scales two, decoding one. (Steps of other terms pass it by.)
    Walk codes(terms, p.count), ahead(terms, p.count), next(terms, p.count);
    const unsigned char* from[PIECES];
    auto open_codes = [&]() {
        const Term& q = terms[codes.term];
        if (!q.scales) return;
#pragma unroll
        for (int j = 0; j < PIECES; j++)
        {
            Piece c(j, false);
            long long element = NN ? (long long)c.row * q.ldb + min(n0 + c.part * EACH, q.ldb - EACH) : (long long)min(n0 + c.row, p.N - 1) * q.ldb + c.part * EACH;
            from[j] = (const unsigned char*)q.b + tile.expert * q.stride_b + element / 8 * sizeof(Code8);
        }
    };
    int stage_of_codes = 0, stage_of_a = 0, stage_of_b = 0;
    auto fetch_codes = [&]() {
        if (codes.over()) return;
        if (terms[codes.term].scales)
        {
#pragma unroll
            for (int j = 0; j < PIECES; j++)
            {
                Piece c(j, false);
                int elements = NN ? min(codes.k, codes.K - 1 - c.row) : min(codes.k, codes.ldb - EACH - c.part * EACH);
                copy_async(shared + CODES_AT + stage_of_codes * CODE_BYTES + c.place(),
                    from[j] + (NN ? elements * (long long)(codes.ldb / 8 * sizeof(Code8)) : elements / 8 * (int)sizeof(Code8)), true);
            }
        }
        stage_of_codes = (stage_of_codes + 1) % CODE_STAGES;
        if (codes.next()) open_codes();
    };
    RowsOfA<ROWS> a;
    const unsigned char* scales_of = nullptr;
    auto open_ahead = [&]() {
        const Term& q = terms[ahead.term];
        a.open(q, tile);
        scales_of = q.scales ? q.scales + tile.expert * q.stride_b : nullptr;
    };
    auto fetch_a = [&]() {
        if (!ahead.over()) a.copy(shared + stage_of_a * A_BYTES, ahead.k, ahead.K, tile.rows, p.terms[0].a);
        stage_of_a = (stage_of_a + 1) % A_STAGES;
    };
    Scale scales[PIECES];
    auto fetch_scales = [&]() {
        if (ahead.over()) return;
        if (scales_of)
        {
#pragma unroll
            for (int j = 0; j < PIECES; j++)
            {
                Piece c(j, true);
                scales[j] = scale8(scales_of, NN ? min(ahead.k + c.row, ahead.K - 1) : min(n0 + c.row, p.N - 1),
                    min((NN ? n0 : ahead.k) + c.part * EACH, ahead.ldb - EACH), ahead.ldb);
            }
        }
        if (ahead.next()) open_ahead();
    };
    bool is_plain = false; // of the step that `next` left last
    auto fetch_plain = [&]() {
        const Term& q = terms[min(next.term, 2)];
        is_plain = !next.over() && !q.scales;
        if (is_plain) copy_b(shared + B_AT + stage_of_b * B_BYTES, q.b + tile.expert * q.stride_b, next.ldb, next.k, next.K, n0, p.N, p.terms[0].a);
    };
    auto decode = [&](int stage_of_codes) {
        if (!next.over() && !is_plain)
        {
            unsigned char* to = shared + B_AT + stage_of_b * B_BYTES;
#pragma unroll
            for (int j = 0; j < PIECES; j++)
            {
                Piece c(j, true);
                Pack<Code8, EIGHTS> eights = *(const Pack<Code8, EIGHTS>*)(shared + CODES_AT + stage_of_codes * CODE_BYTES + c.place());
#pragma unroll
                for (int i = 0; i < EIGHTS; i++)
                {
                    Pack<unsigned int, 4> values;
                    decode8(eights.v[i], scales[j], values.v);
                    int chunk = c.part * EIGHTS + i;
                    *(Pack<unsigned int, 4>*)(to + (NN ? chunk / 8 * (BK * 128) + at(c.row, chunk % 8) : at(c.row, chunk))) = values;
                }
            }
        }
        stage_of_b = (stage_of_b + 1) % B_STAGES;
        if (!next.over()) next.next();
    };
    open_codes();
    open_ahead();

    // A group of copies holds A two steps ahead and codes four steps ahead.
    fetch_a();
    fetch_scales();
    fetch_plain();
    fetch_codes();
    copy_async_commit();
    fetch_codes();
    fetch_codes();
    copy_async_commit();
    fetch_a();
    fetch_codes();
    copy_async_commit();
    copy_async_wait<2>();
    __syncthreads();
    decode(0);
    fetch_scales();

    float d[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; i++) d[i] = 0;
    int product_a = 0, product_b = 0;
    for (int step = 0; step < steps; step++)
    {
        if (is_plain) copy_async_wait<0>(); // its B came in the last group
        else copy_async_wait<1>();
        copies_for_products();
        __syncthreads();
        multiply_stage<ROWS>(d, shared + product_a * A_BYTES, shared + B_AT + product_b * B_BYTES);
        product_a = (product_a + 1) % A_STAGES;
        product_b = (product_b + 1) % B_STAGES;
        fetch_a();
        fetch_plain();
        fetch_codes();
        copy_async_commit();
        decode((step + 1) % CODE_STAGES);
        fetch_scales();
        warpgroup_wait<1>();
    }
    warpgroup_wait<0>();
    copy_async_wait<0>();
    __syncthreads();
    store_tile<ROWS>(d, p, tile, n0, shared);
}

GROUPED_PRODUCT
