// Warp shuffles, votes and reductions: lanes meet in kt_collective, the last one does it for all. A part of device.h.
#pragma once

struct KtShufflePayload {
    unsigned long long value;
    int source;
    unsigned long long result;
};

static inline void kt_complete_shuffle(unsigned int mask, void** payloads) {
    for (unsigned int left = mask; left; left &= left - 1) {
        auto p = (KtShufflePayload*)payloads[__builtin_ctz(left)];
        if (!p) continue;
        auto from = mask >> p->source & 1 ? (KtShufflePayload*)payloads[p->source] : nullptr;
        p->result = from ? from->value : 0x7FBADBAD7FBADBADull;  // of a lane that takes no part: undefined on the device, a NaN here
    }
}

template <class V>
static inline V kt_shuffle(unsigned int mask, V v, int source) {
    static_assert(sizeof(V) == 4 || sizeof(V) == 8, "shuffles move 4 or 8 bytes");
    KtShufflePayload p = {0, source, 0};
    memcpy(&p.value, &v, sizeof v);
    kt_collective(KtShuffle, mask, &p, kt_complete_shuffle);
    memcpy(&v, &p.result, sizeof v);
    return v;
}

template <class V>
static inline V __shfl_sync(unsigned int mask, V v, int source, int width = 32) {
    int lane = kt_lane();
    return kt_shuffle(mask, v, (lane & ~(width - 1)) | (source & (width - 1)));
}

template <class V>
static inline V __shfl_xor_sync(unsigned int mask, V v, int bits, int width = 32) {
    int lane = kt_lane(), source = lane ^ bits;
    return kt_shuffle(mask, v, source >= (lane | (width - 1)) + 1 ? lane : source);
}

template <class V>
static inline V __shfl_up_sync(unsigned int mask, V v, unsigned int delta, int width = 32) {
    int lane = kt_lane(), source = lane - (int)delta;
    return kt_shuffle(mask, v, source < (lane & ~(width - 1)) ? lane : source);
}

template <class V>
static inline V __shfl_down_sync(unsigned int mask, V v, unsigned int delta, int width = 32) {
    int lane = kt_lane(), source = lane + (int)delta;
    return kt_shuffle(mask, v, source > (lane | (width - 1)) ? lane : source);
}

struct KtVotePayload {
    int predicate;
    unsigned int ballot;
};

static inline void kt_complete_vote(unsigned int mask, void** payloads) {
    unsigned int ballot = 0;
    for (int i = 0; i < 32; i++)
        if ((mask >> i & 1) && payloads[i] && ((KtVotePayload*)payloads[i])->predicate) ballot |= 1u << i;
    for (int i = 0; i < 32; i++)
        if ((mask >> i & 1) && payloads[i]) ((KtVotePayload*)payloads[i])->ballot = ballot;
}

static inline unsigned int __ballot_sync(unsigned int mask, int predicate) {
    KtVotePayload p = {predicate, 0};
    kt_collective(KtVote, mask, &p, kt_complete_vote);
    return p.ballot;
}
static inline int __any_sync(unsigned int mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static inline int __all_sync(unsigned int mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
static inline unsigned int __activemask() {
    kt_fail("__activemask() depends on scheduling and is not emulated; name the lanes that take part");
}

static inline void kt_complete_nothing(unsigned int, void**) {}
static inline void __syncwarp(unsigned int mask = 0xffffffffu) {
    char nothing;
    kt_collective(KtSyncWarp, mask, &nothing, kt_complete_nothing);
}

struct KtReducePayload {
    unsigned long long value;
    unsigned int result;
};

template <class F>
static inline void kt_complete_reduce(unsigned int mask, void** payloads, F join) {
    bool first = true;
    unsigned int total = 0;
    for (int i = 0; i < 32; i++)
        if ((mask >> i & 1) && payloads[i]) {
            unsigned int v = (unsigned int)((KtReducePayload*)payloads[i])->value;
            total = first ? v : join(total, v);
            first = false;
        }
    for (int i = 0; i < 32; i++)
        if ((mask >> i & 1) && payloads[i]) ((KtReducePayload*)payloads[i])->result = total;
}

#define KT_REDUCE(name, type, expression)                                     \
    static inline type name(unsigned int mask, type v) {                      \
        KtReducePayload p = {(unsigned int)v, 0};                             \
        kt_collective(KtReduce, mask, &p, [](unsigned int m, void** all) {    \
            kt_complete_reduce(m, all, [](unsigned int ua, unsigned int ub) { \
                type a = (type)ua, b = (type)ub;                              \
                return (unsigned int)(expression);                            \
            });                                                               \
        });                                                                   \
        return (type)p.result;                                                \
    }
KT_REDUCE(__reduce_add_sync, unsigned int, a + b)
KT_REDUCE(__reduce_add_sync, int, a + b)
KT_REDUCE(__reduce_min_sync, unsigned int, a < b ? a : b)
KT_REDUCE(__reduce_min_sync, int, a < b ? a : b)
KT_REDUCE(__reduce_max_sync, unsigned int, a < b ? b : a)
KT_REDUCE(__reduce_max_sync, int, a < b ? b : a)
KT_REDUCE(__reduce_and_sync, unsigned int, a& b)
KT_REDUCE(__reduce_or_sync, unsigned int, a | b)
KT_REDUCE(__reduce_xor_sync, unsigned int, a ^ b)

static inline void kt_complete_match(unsigned int mask, void** payloads) {
    for (int i = 0; i < 32; i++) {
        if (!(mask >> i & 1) || !payloads[i]) continue;
        auto p = (KtReducePayload*)payloads[i];
        p->result = 0;
        for (int j = 0; j < 32; j++)
            if ((mask >> j & 1) && payloads[j] && ((KtReducePayload*)payloads[j])->value == p->value) p->result |= 1u << j;
    }
}

template <class V>
static inline unsigned int __match_any_sync(unsigned int mask, V v) {
    KtReducePayload p = {0, 0};
    memcpy(&p.value, &v, sizeof v);
    kt_collective(KtMatch, mask, &p, kt_complete_match);
    return p.result;
}
