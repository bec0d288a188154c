#!/usr/bin/env bash
# Tests and benchmarks on a GPU machine that has no .NET and maybe no network:
#   tests/gpu/run.sh pack OUT.tar.xz    here: a self-contained linux-x64 build of kt and of the tests, with the golden folders (at most 60 MB)
#   ./run.sh test [more options]        there, in the unpacked folder: the ops and the driver layer; a missing card is a failure
#   ./run.sh verify [options]           there: kt verify --device cuda:0 on every golden folder
#   ./run.sh bench [which …]            there: the tables of docs/results (all of them, or those named: ceilings v2lite v3 formats attention)
# KT_REQUIRE (default: cuda) names what must be there, e.g. amx,cuda. CUDA 12 or 13 must be found as README says: driver, NVRTC, cuBLASLt.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
limit=$((60 * 1000 * 1000))

pack() {
    local out=$1 project
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    for project in "$here/../../src/KtNotebooks.Cli" "$here/../KtNotebooks.Tests"; do
        # A restore for one runtime is not what the lock files describe, and must not change them.
        dotnet publish "$project" -c Release -r linux-x64 --self-contained -o "$folder" \
            -p:NuGetLockFilePath=obj/packages.linux-x64.lock.json -p:RestoreLockedMode=false -p:DebugType=none -p:SatelliteResourceLanguages=en
    done
    cp "${BASH_SOURCE[0]}" "$folder/run.sh"
    mkdir -p "$folder/Golden"
    cp -r "$here"/../KtNotebooks.Tests/Golden/*/ "$folder/Golden/"
    git -C "$here" describe --always --dirty >"$folder/COMMIT"
    find "$folder" -name '*.xml' -delete
    tar -C "$folder" -c . | xz -T0 -6 >"$out"
    local bytes
    bytes=$(stat -c %s "$out")
    echo "$out: $((bytes / 1000000)) MB"
    [ "$bytes" -le "$limit" ] || { echo "larger than $((limit / 1000000)) MB" >&2; return 1; }
}

about() {
    echo "commit $(cat "$here/COMMIT"), $(date -u +%F)"
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || true
}

run_tests() {
    export KT_REQUIRE=${KT_REQUIRE:-cuda}
    about
    "$here/KtNotebooks.Tests" --filter-namespace 'KtNotebooks.Tests.Ops' --filter-namespace 'KtNotebooks.Tests.Interop*' "$@"
}

run_verify() {
    about
    local golden
    for golden in "$here"/Golden/*/expected.json; do "$here/kt" verify "$(dirname "$golden")" --device cuda:0 "$@"; done
}

kt() {
    echo "\$ kt $*"
    "$here/kt" "$@" 2>>bench.log || echo "failed: $?"
}

run_bench() {
    about
    local which
    for which in "${@:-ceilings v2lite formats v3 attention}"; do
        for part in $which; do "bench_$part"; done
    done
}

bench_ceilings() { kt bench pcie; kt bench gemm; kt bench kernels --device cuda:0; }
bench_v2lite() {
    kt bench train --slots-mb 560 --chunk 4096 --moments-on-host
    kt bench train --tokens 32768 --slots-mb 1100 --moments-on-host
    kt bench train --experts resident --saved-mb 20000
    kt bench train --experts cpu --saved-mb 20000 --steps 1
}
bench_formats() {
    local format
    for format in fp8 int8 int4; do kt bench train --format $format --slots-mb 560 --chunk 4096 --moments-on-host; done
}
bench_v3() { kt bench train --shape deepseek-v3 --layers 4 --format fp8 --slots-mb 3000 --chunk 4096 --moments-on-host; }
bench_attention() { kt bench attention --seq 512 --device cuda:0; kt bench attention --seq 4096 --device cuda:0; }

case ${1:-} in
    pack) [ $# -eq 2 ] || { echo "usage: $0 pack OUT.tar.xz" >&2; exit 2; }; pack "$2" ;;
    test) shift; run_tests "$@" ;;
    verify) shift; run_verify "$@" ;;
    bench) shift; run_bench "$@" ;;
    *) sed -n '2,8p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
