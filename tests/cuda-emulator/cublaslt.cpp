// The emulated cuBLASLt: D = alpha · op(A) op(B) + beta · C, column-major, F32 sums, in the order of the driver's streams. Types, shapes
// and descriptors are checked as far as they go.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime.h"

namespace {

enum Status { Success = 0, NotInitialized = 1, InvalidValue = 7, NotSupported = 15, ExecutionFailed = 13 };
constexpr int F32 = 0, BF16 = 14;
constexpr uint64_t Magic = 0x6B74656D756C6174;
constexpr size_t WorkspaceBytes = 1 << 16;  // not needed here; asked for so that callers provide it

struct Desc {
    int compute, scale, transpose[2] = {0, 0}, epilogue = 1;
};
struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t stride;
    int batches = 1;
    int64_t batch_stride = 0;
    size_t bytes(int b) const {
        auto last = columns == 0 ? 0 : (columns - 1) * static_cast<uint64_t>(stride) + rows;
        return (static_cast<uint64_t>(b) * static_cast<uint64_t>(batch_stride) + last) * (type == F32 ? 4 : 2);
    }
};
struct Preference {
    uint64_t workspace = 0;
    uint32_t alignment[4] = {256, 256, 256, 256};
};
struct Algorithm {
    uint64_t magic, workspace;
    uint32_t alignment[4];
    uint64_t shape;
    uint64_t unused[3];
};
static_assert(sizeof(Algorithm) == 64);
struct Heuristic {
    Algorithm algorithm;
    size_t workspace;
    int status;
    float waves;
    long reserved[2];
};

std::mutex gate;

template <class V>
class Handles {
  public:
    void* add(V v) {
        std::lock_guard<std::mutex> lock(gate);
        auto made = std::make_unique<V>(v);
        auto p = made.get();
        all_[p] = std::move(made);
        return p;
    }
    V* find(void* p) {
        std::lock_guard<std::mutex> lock(gate);
        auto found = all_.find(p);
        return found == all_.end() ? nullptr : found->second.get();
    }
    int remove(void* p) {
        std::lock_guard<std::mutex> lock(gate);
        return all_.erase(p) ? Success : InvalidValue;
    }

  private:
    std::unordered_map<void*, std::unique_ptr<V>> all_;
};

Handles<Desc>& descs() {
    static auto all = new Handles<Desc>();
    return *all;
}
Handles<Layout>& layouts() {
    static auto all = new Handles<Layout>();
    return *all;
}
Handles<Preference>& preferences() {
    static auto all = new Handles<Preference>();
    return *all;
}
Handles<int>& libraries() {
    static auto all = new Handles<int>();
    return *all;
}

float widen(uint16_t bits) {
    uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float v;
    memcpy(&v, &wide, 4);
    return v;
}

uint16_t narrow(float v) {
    uint32_t bits;
    memcpy(&bits, &v, 4);
    return static_cast<uint16_t>(v != v ? 0x7FFF : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

uint64_t shape_key(const Desc& d, const Layout& a, const Layout& b, const Layout& out) {
    uint64_t key = 1469598103934665603u;
    for (uint64_t v : {static_cast<uint64_t>(d.transpose[0]), static_cast<uint64_t>(d.transpose[1]), static_cast<uint64_t>(a.type), a.rows,
                       a.columns, static_cast<uint64_t>(b.type), b.rows, b.columns, static_cast<uint64_t>(out.type), out.rows, out.columns})
        key = (key ^ v) * 1099511628211u;
    return key;
}

int check(const Desc& d, const Layout& a, const Layout& b, const Layout& c, const Layout& out) {
    auto m = d.transpose[0] ? a.columns : a.rows, k = d.transpose[0] ? a.rows : a.columns;
    auto k2 = d.transpose[1] ? b.columns : b.rows, n = d.transpose[1] ? b.rows : b.columns;
    if (k != k2 || out.rows != m || out.columns != n || c.rows != m || c.columns != n || m == 0 || n == 0 || k == 0) return InvalidValue;
    for (auto l : {&a, &b, &c, &out})
        if (l->stride < static_cast<int64_t>(l->rows) || l->batches != out.batches) return InvalidValue;
    if (d.epilogue != 1 || a.type != b.type || c.type != out.type) return NotSupported;
    return a.type == BF16 || out.type == F32 ? Success : NotSupported;
}

// Element (i, k) of op(X) as rows of floats.
void unpack(const Layout& l, const char* data, bool transposed, uint64_t first, uint64_t count, uint64_t k, float* rows) {
    for (uint64_t i = 0; i < count; i++)
        for (uint64_t j = 0; j < k; j++) {
            auto at = transposed ? j + (first + i) * static_cast<uint64_t>(l.stride) : first + i + j * static_cast<uint64_t>(l.stride);
            rows[i * k + j] = l.type == F32 ? reinterpret_cast<const float*>(data)[at] : widen(reinterpret_cast<const uint16_t*>(data)[at]);
        }
}

struct Product {
    Desc desc;
    Layout a, b, c, d;
    float alpha, beta;
    const void *pa, *pb, *pc;
    void *pd, *workspace;
    size_t workspace_bytes;
    uint64_t m, n, k, panels;
    std::vector<float> left;  // op(A) as [k, m]
    const char *ra, *rb, *rc;
    char* rd;
};

constexpr uint64_t Columns = 4;

// A few columns of D: sums in F32 over k in order, vectorised over the rows of D.
void columns(Product& p, uint64_t first) {
    auto count = std::min(Columns, p.n - first);
    std::vector<float> right(Columns * p.k, 0.0f), sums(Columns * p.m, 0.0f);
    unpack(p.b, p.rb, !p.desc.transpose[1], first, count, p.k, right.data());
    float *s0 = sums.data(), *s1 = s0 + p.m, *s2 = s1 + p.m, *s3 = s2 + p.m;
    for (uint64_t k = 0; k < p.k; k++) {
        auto left = p.left.data() + k * p.m;
        float r0 = right[k], r1 = right[p.k + k], r2 = right[2 * p.k + k], r3 = right[3 * p.k + k];
#pragma GCC ivdep
        for (uint64_t i = 0; i < p.m; i++) {
            s0[i] += left[i] * r0;
            s1[i] += left[i] * r1;
            s2[i] += left[i] * r2;
            s3[i] += left[i] * r3;
        }
    }
    for (uint64_t j = 0; j < count; j++)
        for (uint64_t i = 0; i < p.m; i++) {
            auto at = i + (first + j) * static_cast<uint64_t>(p.d.stride), from = i + (first + j) * static_cast<uint64_t>(p.c.stride);
            float v = p.alpha * sums[j * p.m + i];
            // beta = 0: what is there is not read, NaN or not.
            if (p.beta != 0)
                v += p.beta *
                     (p.c.type == F32 ? reinterpret_cast<const float*>(p.rc)[from] : widen(reinterpret_cast<const uint16_t*>(p.rc)[from]));
            if (p.d.type == F32)
                reinterpret_cast<float*>(p.rd)[at] = v;
            else
                reinterpret_cast<uint16_t*>(p.rd)[at] = narrow(v);
        }
}

void multiply(void* argument) {
    auto p = static_cast<Product*>(argument);
    if (p->workspace_bytes > 0)
        memset(kt_reach(p->workspace, p->workspace_bytes), 0xFF, p->workspace_bytes);  // nobody else's while this runs
    auto element = [](const Layout& l) { return static_cast<int64_t>(l.type == F32 ? 4 : 2); };
    for (int batch = 0; batch < p->d.batches; batch++) {
        auto at = [&](const void* data, const Layout& l) {
            return static_cast<char*>(kt_reach(data, l.bytes(l.batches - 1))) + batch * l.batch_stride * element(l);
        };
        p->ra = at(p->pa, p->a);
        p->rb = at(p->pb, p->b);
        p->rc = at(p->pc, p->c);
        p->rd = at(p->pd, p->d);
        p->left.resize(p->k * p->m);
        // op(A) [m, k] seen from its columns: rows of its transpose.
        unpack(p->a, p->ra, !p->desc.transpose[0], 0, p->k, p->m, p->left.data());
        kt_parallel(
            static_cast<int>((p->n + Columns - 1) / Columns),
            [](void* all, int i) { columns(*static_cast<Product*>(all), static_cast<uint64_t>(i) * Columns); }, p);
    }
}

template <class V>
int set(V& target, const void* value, size_t bytes) {
    if (bytes != sizeof(V)) return InvalidValue;
    memcpy(&target, value, bytes);
    return Success;
}

}  // namespace

extern "C" {

size_t cublasLtGetVersion() { return 139900; }

const char* cublasLtGetStatusString(int status) {
    switch (status) {
        case Success:
            return "CUBLAS_STATUS_SUCCESS";
        case NotInitialized:
            return "CUBLAS_STATUS_NOT_INITIALIZED";
        case InvalidValue:
            return "CUBLAS_STATUS_INVALID_VALUE";
        case ExecutionFailed:
            return "CUBLAS_STATUS_EXECUTION_FAILED";
        default:
            return "CUBLAS_STATUS_NOT_SUPPORTED";
    }
}

int cublasLtCreate(void** handle) {
    *handle = libraries().add(0);
    return Success;
}

int cublasLtDestroy(void* handle) { return libraries().remove(handle); }

int cublasLtMatmulDescCreate(void** desc, int compute, int scale) {
    if (compute != 68 || scale != F32) return NotSupported;
    Desc d{};
    d.compute = compute;
    d.scale = scale;
    *desc = descs().add(d);
    return Success;
}

int cublasLtMatmulDescSetAttribute(void* desc, int attribute, const void* value, size_t bytes) {
    auto d = descs().find(desc);
    if (!d) return InvalidValue;
    switch (attribute) {
        case 3:
            return set(d->transpose[0], value, bytes);
        case 4:
            return set(d->transpose[1], value, bytes);
        case 7:
            return set(d->epilogue, value, bytes);
        default:
            return NotSupported;
    }
}

int cublasLtMatmulDescDestroy(void* desc) { return descs().remove(desc); }

int cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    if (type != F32 && type != BF16) return NotSupported;
    *layout = layouts().add({type, rows, columns, stride});
    return Success;
}

int cublasLtMatrixLayoutSetAttribute(void* layout, int attribute, const void* value, size_t bytes) {
    auto l = layouts().find(layout);
    if (!l) return InvalidValue;
    switch (attribute) {
        case 5:
            return set(l->batches, value, bytes);
        case 6:
            return set(l->batch_stride, value, bytes);
        default:
            return NotSupported;
    }
}

int cublasLtMatrixLayoutDestroy(void* layout) { return layouts().remove(layout); }

int cublasLtMatmulPreferenceCreate(void** preference) {
    *preference = preferences().add({});
    return Success;
}

int cublasLtMatmulPreferenceSetAttribute(void* preference, int attribute, const void* value, size_t bytes) {
    auto p = preferences().find(preference);
    if (!p) return InvalidValue;
    if (attribute == 1) return set(p->workspace, value, bytes);
    if (attribute >= 5 && attribute <= 8) return set(p->alignment[attribute - 5], value, bytes);
    return NotSupported;
}

int cublasLtMatmulPreferenceDestroy(void* preference) { return preferences().remove(preference); }

int cublasLtMatmulAlgoGetHeuristic(void* handle, void* desc, void* a, void* b, void* c, void* d, void* preference, int requested,
                                   Heuristic* results, int* returned) {
    auto pd = descs().find(desc);
    auto la = layouts().find(a), lb = layouts().find(b), lc = layouts().find(c), ld = layouts().find(d);
    auto pp = preferences().find(preference);
    if (!libraries().find(handle) || !pd || !la || !lb || !lc || !ld || !pp || requested < 1) return InvalidValue;
    *returned = 0;
    if (int status = check(*pd, *la, *lb, *lc, *ld)) return status;
    memset(results, 0, sizeof *results);
    auto workspace = std::min<uint64_t>(pp->workspace, WorkspaceBytes);
    results->algorithm = {
        Magic, workspace, {pp->alignment[0], pp->alignment[1], pp->alignment[2], pp->alignment[3]}, shape_key(*pd, *la, *lb, *ld), {}};
    results->workspace = workspace;
    results->waves = 1;
    *returned = 1;
    return Success;
}

int cublasLtMatmul(void* handle, void* desc, const float* alpha, const void* a, void* layout_a, const void* b, void* layout_b,
                   const float* beta, const void* c, void* layout_c, void* d, void* layout_d, const Algorithm* algorithm, void* workspace,
                   size_t workspace_bytes, void* stream) {
    auto pd = descs().find(desc);
    auto la = layouts().find(layout_a), lb = layouts().find(layout_b), lc = layouts().find(layout_c), ld = layouts().find(layout_d);
    if (!libraries().find(handle) || !pd || !la || !lb || !lc || !ld || !alpha || !beta) return InvalidValue;
    if (int status = check(*pd, *la, *lb, *lc, *ld)) return status;
    if (algorithm) {
        if (algorithm->magic != Magic || algorithm->shape != shape_key(*pd, *la, *lb, *ld) || workspace_bytes < algorithm->workspace)
            return InvalidValue;
        const void* pointers[] = {a, b, c, d};
        for (int i = 0; i < 4; i++)
            if (reinterpret_cast<uintptr_t>(pointers[i]) % algorithm->alignment[i] != 0) return InvalidValue;
    }
    if (workspace_bytes > 0 && !kt_reach(workspace, workspace_bytes)) return InvalidValue;
    auto reached = [](const void* p, const Layout* l) {
        return reinterpret_cast<uintptr_t>(p) % (l->type == F32 ? 4 : 2) == 0 && kt_reach(p, l->bytes(l->batches - 1)) != nullptr;
    };
    if (!reached(a, la) || !reached(b, lb) || !reached(c, lc) || !reached(d, ld)) return ExecutionFailed;
    auto p = new Product{*pd,
                         *la,
                         *lb,
                         *lc,
                         *ld,
                         *alpha,
                         *beta,
                         a,
                         b,
                         c,
                         d,
                         workspace,
                         workspace_bytes,
                         ld->rows,
                         ld->columns,
                         pd->transpose[0] ? la->rows : la->columns,
                         0,
                         {},
                         nullptr,
                         nullptr,
                         nullptr,
                         nullptr};
    return kt_enqueue(stream, multiply, p, [](void* product) { delete static_cast<Product*>(product); }) == 0 ? Success : ExecutionFailed;
}
}
