// Hopper's warpgroup products (wgmma m64n256k16 and m64n128k16, BF16, both sides in shared memory swizzled by 128 bytes). Each warp computes its 16 rows
// of the 64 when its last lane arrives.
#include <cstring>

#include "block.h"

namespace kt {

// An address as the device's descriptors have it: within the window of shared memory.
unsigned BlockRunner::shared_address(const void* p) {
    auto window = dynamic_end_ - (256 << 10), at = static_cast<unsigned char*>(const_cast<void*>(p));
    if (at < dynamic_ || at >= dynamic_end_) fail(700, "shared_address: not in dynamic shared memory");
    return static_cast<unsigned>(at - window);
}

void BlockRunner::multiply(float* d, int columns, uint64_t a, uint64_t b, bool b_by_k) {
    auto& t = threads_[current_];
    t.products.push_back({d, columns, a, b, b_by_k, t.product_group});
    // As with copies: at once in some blocks, at the last moment in others.
    if (!copies_late_) meet_for_products(-1);
}

void BlockRunner::multiply_commit() { threads_[current_].product_group++; }

void BlockRunner::multiply_wait(int groups) { meet_for_products(groups); }

void BlockRunner::meet_for_products(int groups) {
    auto& t = threads_[current_];
    Due due{&t.products, 0};
    while (due.count < t.products.size() && t.products[due.count].group < t.product_group - groups) due.count++;
    collective(KtWarpgroup, 0xffffffffu, &due, [](unsigned, void** dues) { here()->do_products(dues); });
}

// Element (row, k) of a side that a descriptor describes.
float BlockRunner::shared_bf16(uint64_t descriptor, int row, int k, bool by_k) {
    auto field = [descriptor](int shift) { return static_cast<unsigned>(descriptor >> shift & 0x3FFF) << 4; };
    if (descriptor >> 62 != 1) fail(719, "a warpgroup product: only the swizzle of 128 bytes is emulated");
    auto start = field(0), leading = field(16), stride = field(32);
    unsigned at =
        by_k ? start + k / 8 * stride + k % 8 * 128 + row % 64 * 2 + row / 64 * leading : start + row / 8 * stride + row % 8 * 128 + k * 2;
    at ^= (at >> 7 & 7) << 4;
    auto p = dynamic_end_ - (256 << 10) + at;
    if (p < dynamic_ || p + 2 > dynamic_end_) fail(700, "a warpgroup product reads outside of dynamic shared memory");
    uint16_t bits;
    memcpy(&bits, p, 2);
    uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float v;
    memcpy(&v, &wide, 4);
    return v;
}

void BlockRunner::do_products(void** dues) {
    auto due = [dues](int lane) { return static_cast<Due*>(dues[lane]); };
    int warp = current_ / 32 % 4;
    float a[16][16], b[16][256], c[16][256];
    for (int lane = 1; lane < 32; lane++)
        if (due(lane)->count != due(0)->count) fail(719, "the lanes of a warp have queued different warpgroup products");
    for (size_t i = 0; i < due(0)->count; i++) {
        auto p = (*due(0)->products)[i];
        for (int k = 0; k < 16; k++) {
            for (int m = 0; m < 16; m++) a[m][k] = shared_bf16(p.a, warp * 16 + m, k, false);
            for (int n = 0; n < p.columns; n++) b[k][n] = shared_bf16(p.b, n, k, p.b_by_k);
        }
        auto each = [&](auto body) {
            for (int lane = 0; lane < 32; lane++)
                for (int r = 0; r < p.columns / 2; r++)
                    body((*due(lane)->products)[i].d[r], c[lane / 4 + r / 2 % 2 * 8][r / 4 * 8 + lane % 4 * 2 + r % 2]);
        };
        each([](float& d, float& sum) { sum = d; });
        for (int m = 0; m < 16; m++)
            for (int k = 0; k < 16; k++)
                for (int n = 0; n < p.columns; n++) c[m][n] += a[m][k] * b[k][n];
        each([](float& d, float& sum) { d = sum; });
    }
    for (int lane = 0; lane < 32; lane++)
        due(lane)->products->erase(due(lane)->products->begin(), due(lane)->products->begin() + static_cast<ptrdiff_t>(due(lane)->count));
}

}  // namespace kt

extern "C" {
unsigned kt_shared_address(const void* p) { return kt::BlockRunner::here()->shared_address(p); }
void kt_warpgroup_multiply(float* d, int columns, unsigned long long a, unsigned long long b, bool b_by_k) {
    kt::BlockRunner::here()->multiply(d, columns, a, b, b_by_k);
}
void kt_warpgroup_commit() { kt::BlockRunner::here()->multiply_commit(); }
void kt_warpgroup_wait(int groups) { kt::BlockRunner::here()->multiply_wait(groups); }
}
