#!/usr/bin/env bash
# build.sh OUT: makes OUT/libcuda.so.1, libnvrtc.so.13, libcublasLt.so.13 and libnccl.so.2, unless they are newer than all sources here. Needs g++.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$1
mkdir -p "$out"
exec 9>"$out/lock"
flock 9
[[ ! -e $out/built || -n $(find "$here" -newer "$out/built" -print -quit) ]] || exit 0
touch "$out/building"
flags=(-std=c++17 -O3 -march=native -ffp-contract=fast -fPIC -shared -ftls-model=initial-exec -Wall -Wextra -Werror -pthread -Wl,--no-undefined)
cp "$here"/{device,warp,runtime}.h "$out"
cd "$here"
g++ "${flags[@]}" -Wl,-soname,libcuda.so.1 block.cpp matrix.cpp warpgroup.cpp sanitizer.cpp machine.cpp workers.cpp streams.cpp driver.cpp copies.cpp modules.cpp -ldl -o "$out/libcuda.so.1.new"
mv "$out/libcuda.so.1.new" "$out/libcuda.so.1"
g++ "${flags[@]}" -Wl,-soname,libcublasLt.so.13 cublaslt.cpp "$out/libcuda.so.1" '-Wl,-rpath,$ORIGIN' -o "$out/libcublasLt.so.13.new"
mv "$out/libcublasLt.so.13.new" "$out/libcublasLt.so.13"
g++ "${flags[@]}" -Wl,-soname,libnccl.so.2 nccl.cpp "$out/libcuda.so.1" '-Wl,-rpath,$ORIGIN' -lrt -o "$out/libnccl.so.2.new"
mv "$out/libnccl.so.2.new" "$out/libnccl.so.2"
g++ "${flags[@]}" -Wl,-soname,libnvrtc.so.13 nvrtc.cpp -ldl -o "$out/libnvrtc.so.13.new"
mv "$out/libnvrtc.so.13.new" "$out/libnvrtc.so.13"
ln -sfn . "$out/lib64"  # where CUDA_HOME has them
mv "$out/building" "$out/built"
