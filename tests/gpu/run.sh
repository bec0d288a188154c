#!/usr/bin/env bash
# Tests and benchmarks on a GPU machine that has no .NET and maybe no network:
#   tests/gpu/run.sh pack OUT.tar.xz    here: a self-contained linux-x64 build of kt and of the tests, with the golden folders (at most 60 MB)
#   ./run.sh test [more options]        there, in the unpacked folder: every test that uses a card; one that wants more cards than there are fails
#   ./run.sh sanitize [class …]         there: a golden model's steps and answers under compute-sanitizer's memcheck, then tests of ops under memcheck, racecheck
#                                       and initcheck (those of KERNELS below, or of the classes named)
#   ./run.sh verify [options]           there: kt verify --device cuda:0 on every golden folder
#   ./run.sh bench [which …]            there: the tables of docs/results (all of them, or those named: ceilings v2lite v3 formats attention)
#   ./run.sh scale [1 2 4 …]            there: the same step by so many processes with a card each (default 1, 2, 4 as there are cards), summed by NCCL
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
        # What the kernel compiles ahead would lie beside the same assemblies of packages.
        dotnet publish "$project" -c Release -r linux-x64 --self-contained -o "$folder" \
            -p:NuGetLockFilePath=obj/packages.linux-x64.lock.json -p:RestoreLockedMode=false -p:KtCompileAhead=false -p:DebugType=none -p:SatelliteResourceLanguages=en
    done
    cp "${BASH_SOURCE[0]}" "$folder/run.sh"
    # Where tests look for it in a checkout, which the folder passes for.
    mkdir -p "$folder/tests/KtNotebooks.Tests/Golden"
    cp -r "$here"/../KtNotebooks.Tests/Golden/*/ "$folder/tests/KtNotebooks.Tests/Golden/"
    cp "$here/../../KtNotebooks.sln" "$folder/"
    git -C "$here" describe --always --dirty >"$folder/COMMIT"
    # Clients that tests of the server talk through, parts of ASP.NET and compilers that nothing uses, Parquet's library (no test of a card reads such a file), and
    # what a debugger wants.
    rm -f "$folder"/{Anthropic,OpenAI,Microsoft.AspNetCore.{Mvc,Components,Identity,Razor,SignalR,Server.HttpSys,Server.IIS}*}.dll \
        "$folder"/Microsoft.CodeAnalysis.{VisualBasic*,*Workspaces,Workspaces}.dll "$folder"/{libmscor*,libcoreclrtraceptprovider,ParquetSharpNative}.so
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
    "$here/KtNotebooks.Tests" --filter-trait card=cuda "$@"
}

run_verify() {
    about
    local golden
    for golden in "$here"/tests/KtNotebooks.Tests/Golden/*/expected.json; do "$here/kt" verify "$(dirname "$golden")" --device cuda:0 "$@"; done
}

KERNELS='Ops.FewRowKernelsTests Ops.RouteKernelsTests Ops.CachedAttentionTests Ops.GroupedCodesTests Generation.ShortlistTests Interop.Cuda.PreludeTests'

run_sanitize() {
    about
    local tool class filters=()
    compute-sanitizer --tool memcheck --error-exitcode 9 "$here/kt" verify "$here/tests/KtNotebooks.Tests/Golden/deepseek_v2_lite" --device cuda:0
    for class in ${*:-$KERNELS}; do filters+=(--filter-class "KtNotebooks.Tests.$class"); done
    for tool in memcheck racecheck initcheck; do
        echo "\$ compute-sanitizer --tool $tool: ${*:-$KERNELS}"
        KT_REQUIRE=${KT_REQUIRE:-cuda} compute-sanitizer --tool "$tool" --error-exitcode 9 "$here/KtNotebooks.Tests" "${filters[@]}" | tail -n 20
    done
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

# $1 processes as torchrun starts them: one a card, each told its number; the first one's report, and the last words of one that fails.
start_ranks() {
    local world=$1 rank pids=() status=0
    shift
    echo "\$ $world x kt $*"
    for ((rank = 0; rank < world; rank++)); do
        RANK=$rank LOCAL_RANK=$rank WORLD_SIZE=$world LOCAL_WORLD_SIZE=$world MASTER_ADDR=127.0.0.1 MASTER_PORT=$((29500 + world)) NCCL_NVLS_ENABLE=0 \
            "$here/kt" "$@" >"rank-$rank.out" 2>"rank-$rank.log" &
        pids+=($!)
    done
    for rank in "${!pids[@]}"; do
        wait "${pids[$rank]}" || { status=$?; echo "rank $rank failed: $status"; tail -n 3 "rank-$rank.log"; }
    done
    cat rank-0.out
    grep -h -E 'NCCL|host memory' rank-0.log | head -n 2 || true
    return $status
}

# V2-Lite with made-up weights, every window as many times 8,192 tokens as there are processes; the speed-up is over one process.
run_scale() {
    about
    local cards world figure first='' tokens=8192
    cards=$(nvidia-smi --query-gpu=name --format=csv,noheader | wc -l)
    for world in "${@:-1 2 4}"; do
        for world in $world; do
            if ((world > cards)); then echo "$world processes: only $cards cards here"; continue; fi
            start_ranks "$world" bench train --tokens $((tokens * world)) --slots-mb 560 --chunk 4096 --moments-on-host --steps 8 || continue
            figure=$(grep -m1 -oE '[0-9,]+ tokens/s' rank-0.out | tr -d ', tokens/s')
            first=${first:-$figure}
            awk -v n="$world" -v f="$figure" -v o="$first" 'BEGIN { printf "  => %d cards: %d tokens/s, %.2f times the first line\n", n, f, f / o }'
        done
    done
}

case ${1:-} in
    pack) [ $# -eq 2 ] || { echo "usage: $0 pack OUT.tar.xz" >&2; exit 2; }; pack "$2" ;;
    test) shift; run_tests "$@" ;;
    sanitize) shift; run_sanitize "$@" ;;
    scale) shift; run_scale "$@" ;;
    verify) shift; run_verify "$@" ;;
    bench) shift; run_bench "$@" ;;
    *) sed -n '2,10p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
