// grouped_product of GroupedKernels.cu for Hopper, behind Warpgroup.cu: the same arguments and result. Four buffers are filled by asynchronous copies. A buffer is free again two steps
// after its product was queued, so that a product is always under way while the threads wait, meet and fetch.

constexpr int STAGES = 4, STAGE = A_BYTES + B_BYTES;

template <int ROWS>
__device__ __forceinline__ void product(const Product& p, const Term* terms, const Tile& tile, unsigned char* shared)
{
    const int n0 = blockIdx.x * BN;
    int steps = 0;
    for (int t = 0; t < p.count; t++) steps += (terms[t].K + BK - 1) / BK;

    Walk walk(terms, p.count);
    RowsOfA<ROWS> a;
    const T* b = nullptr;
    auto open = [&]() {
        const Term& q = terms[walk.term];
        a.open(q, tile);
        b = q.b + tile.expert * q.stride_b;
    };
    open();
    auto fetch = [&](int stage) {
        if (!walk.over())
        {
            unsigned char* to = shared + stage * STAGE;
            a.copy(to, walk.k, walk.K, tile.rows, p.terms[0].a);
            copy_b(to + A_BYTES, b, walk.ldb, walk.k, walk.K, n0, p.N, p.terms[0].a);
            if (walk.next()) open();
        }
        copy_async_commit();
    };
#pragma unroll
    for (int s = 0; s < STAGES - 2; s++) fetch(s);

    float d[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; i++) d[i] = 0;
    for (int step = 0; step < steps; step++)
    {
        copy_async_wait<STAGES - 3>();
        copies_for_products();
        __syncthreads();
        unsigned char* stage = shared + step % STAGES * STAGE;
        multiply_stage<ROWS>(d, stage, stage + A_BYTES);
        fetch((step + STAGES - 2) % STAGES);
        warpgroup_wait<1>();
    }
    warpgroup_wait<0>();
    copy_async_wait<0>();
    __syncthreads();
    store_tile<ROWS>(d, p, tile, n0, shared);
}

GROUPED_PRODUCT
