#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Copyright The tomograd authors
#
# package.sh CASE SOURCE BUILD: builds and runs a stranger's program in one of the ways people build programs. Called by ctest;
# exit status 77 means skipped. Everything is made under BUILD/packaging/CASE.
set -euo pipefail
case_name=$1 source=$2 build=$3
here=$source/tests/packaging
work=$build/packaging/$case_name
rm -rf "$work"; mkdir -p "$work"; cd "$work"
gxx=${CXX:-g++}
strict=(-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Werror)

skip() { echo "skipped: $*"; exit 77; }
timed() { local t=$EPOCHREALTIME; "$@"; echo "  $(awk -v a="$t" -v b="$EPOCHREALTIME" 'BEGIN{printf "%.1f", b - a}') s: $*" | cut -c1-220; }
compiled=$build/libtomograd_compiled.a

consume() {  # way, target, further cmake arguments
  local way=$1 target=$2; shift 2
  mkdir -p "$way"; cp "$here/consumer.cmake" "$way/CMakeLists.txt"; cp "$here/app.cpp" "$here/cuda_app.cpp" "$way/"
  cmake -S "$way" -B "$way/build" -DWAY="$way" -DTARGET="$target" -DSOURCE="$source" -DCMAKE_CXX_COMPILER="$gxx" "$@" >"$way.log" 2>&1 || { cat "$way.log"; exit 1; }
  timed cmake --build "$way/build" --target app >>"$way.log" 2>&1 || { cat "$way.log"; exit 1; }
  "$way/build/app"
}

case $case_name in
  # The README's promise: one include path, no library, no flags.
  plain)
    timed "$gxx" -std=c++20 -O2 -pthread -I "$source/include" "$here/app.cpp" -o app
    ./app
    # A kernel's region must not leak into what the linker shares with the rest of the program: no inline function of the standard
    # library may hold AVX code when the program was compiled without.
    command -v objdump >/dev/null || skip "no objdump"
    nm app | awk '$2 ~ /[WVu]/ && $3 ~ /^_Z(N|NK)?S[tsa]/ {print $1}' >weak
    [[ -s weak ]]
    objdump -d --no-show-raw-insn app | awk '
      NR == FNR {weak[$1] = 1; next}
      /^[0-9a-f]+ <.*>:$/ {name = $2; inside = ($1 in weak)}
      inside && /%[yz]mm/ {bad[name] = $0}
      END {for (n in bad) {print n, bad[n]; failed = 1} exit failed}' weak - || { echo "weak functions of std:: carry AVX code"; exit 1; }
    echo "$(wc -l <weak) weak std functions, none with AVX code" ;;

  subdirectory) consume subdirectory tomograd -DCMAKE_BUILD_TYPE=Debug ;;
  fetch) consume fetch tomograd -DCMAKE_BUILD_TYPE=Debug ;;

  # Installed: compiled library and headers alone, with the source tree's headers out of sight.
  find_package)
    cmake --install "$build" --prefix "$work/prefix" --strip >install.log || { cat install.log; exit 1; }
    consume find_package compiled -DCMAKE_PREFIX_PATH="$work/prefix"
    timed "$gxx" -std=c++20 -fsyntax-only -I "$work/prefix/include" "$here/app.cpp"
    "$gxx" -std=c++20 -M -I "$work/prefix/include" "$here/app.cpp" >needed
    if grep -q "$source/include\|$source/kernels" needed; then echo "the installed headers reach into the source tree"; exit 1; fi
    grep -q 'prefix/include/tomograd/kernels/abi.h' needed ;;

  # The kernels that nvcc made, in a program of g++'s: by the README's three flags, loaded by a path, and by CMake's target, installed.
  cuda)
    cudart=$4
    timed "$gxx" -std=c++20 -O1 -DTOMOGRAD_COMPILED=1 -pthread -I "$source/include" "$here/cuda_app.cpp" "$compiled" -L "$build" -L "$cudart" \
      -Wl,-u,tg_cuda_get_api -l:libtomograd_cuda.a -lcudart_static -o app
    ./app
    "$gxx" -std=c++20 -O1 -DTOMOGRAD_COMPILED=1 -pthread -I "$source/include" "$here/cuda_app.cpp" "$compiled" -o alone
    if ./alone; then echo "linked without, and does not know"; exit 1; fi
    TOMOGRAD_CUDA_PLUGIN=$build/libtomograd_cuda.so ./alone
    [[ -x $build/bin/tomograd ]] || { echo "not installed: the programs were not built"; exit 0; }
    cmake --install "$build" --prefix "$work/prefix" --strip >install.log || { cat install.log; exit 1; }
    cmake --install "$build" --prefix "$work/prefix" --component cuda >install.log || { cat install.log; exit 1; }
    consume find_package cuda -DCMAKE_PREFIX_PATH="$work/prefix" -DPROGRAM=cuda_app.cpp ;;

  # Headers alone in two units, one of them for a newer machine. Inline functions of the two must not be shared: the linker would
  # keep one copy of each, possibly the one this machine cannot run.
  two_units)
    grep -q ' avx2 ' /proc/cpuinfo || skip "no AVX2 here"
    timed "$gxx" -std=c++20 -O0 -c -DTWO_UNITS -I "$source/include" "$here/app.cpp" -o app.o &
    timed "$gxx" -std=c++20 -O0 -c -march=x86-64-v3 -I "$source/include" "$here/second.cpp" -o newer.o
    wait $!
    "$gxx" -pthread app.o newer.o -o mixed && ./mixed
    for unit in app newer; do nm "$unit.o" | awk '$(NF-1) ~ /^[WVu]$/ && $NF ~ /tomograd/ && $NF !~ /^_ZN?K?S|^_ZSt/ {print $NF}' | sort -u >"$unit.weak"; done
    [[ -s app.weak && -s newer.weak ]]
    shared=$(comm -12 app.weak newer.weak)
    if [[ -n $shared ]]; then echo "shared between instruction sets:"; c++filt <<<"$shared" | head -n 20; exit 1; fi
    echo "$(wc -l <app.weak) and $(wc -l <newer.weak) inline functions, none shared" ;;

  # Headers alone in two units of one program: every function is inline.
  same_units)
    timed "$gxx" -std=c++20 -O0 -c -DTWO_UNITS -I "$source/include" "$here/app.cpp" -o app.o &
    timed "$gxx" -std=c++20 -O0 -c -I "$source/include" "$here/second.cpp" -o second.o
    wait $!
    "$gxx" -pthread app.o second.o -o app && ./app ;;

  # -march=native against the library, which was built without.
  native)
    timed "$gxx" -std=c++20 -O2 -march=native -DTOMOGRAD_COMPILED=1 -pthread -I "$source/include" "$here/app.cpp" "$compiled" -o app
    ./app ;;

  # A program that only runs a model: under 3 MB stripped.
  infer_size)
    [[ -f $source/include/tomograd/infer.hpp ]] || skip "no infer.hpp"
    timed "$gxx" -std=c++20 -O2 -DTOMOGRAD_COMPILED=1 -pthread -I "$source/include" "$here/infer_app.cpp" "$compiled" -Wl,--gc-sections -s -o infer_app
    printf '#include <tomograd/infer.hpp>\n' >only.cpp
    timed "$gxx" -std=c++20 -O2 -c -I "$source/include" only.cpp -o only.o
    timed "$gxx" -std=c++20 -O2 -c -DTOMOGRAD_COMPILED=1 -I "$source/include" only.cpp -o only_compiled.o
    size=$(stat -c %s infer_app); echo "$size bytes stripped"
    (( size < 3000000 )) || { echo "more than 3 MB"; exit 1; } ;;

  # Every public header compiles first and alone, without a warning, with its bodies. Kernels stay declared, as in kernels/compiled.cpp:
  # they are three quarters of the time. The doors (tomograd.hpp, infer.hpp …) are compiled with everything, and by clang++ too, with and
  # without bodies (the latter is what users of the library see).
  headers)
    cat >alone.sh <<'ALONE'
cxx=$1 mode=$2 header=$3
case $mode in
  bodies) flags=(-DTOMOGRAD_COMPILED=1)
          printf '#include "%s/kernels/%s"\n' "$SOURCE" abi.h "$SOURCE" cpu/table.hpp "$SOURCE" reference/table.hpp "$SOURCE" simt/table.hpp
          printf '#undef TOMOGRAD_BODIES\n#define TOMOGRAD_BODIES 1\n' ;;
  library) flags=(-DTOMOGRAD_COMPILED=1) ;;
  all) flags=() ;;
esac >"prelude.$$"
{ cat "prelude.$$"; printf '#include <%s>\n' "$header"; } | $cxx -std=c++20 $STRICT "${flags[@]}" -fsyntax-only -I "$SOURCE/include" -x c++ - ||
  { echo "FAILED alone: $header ($cxx, $mode)"; exit 1; }
ALONE
    export SOURCE=$source STRICT="${strict[*]}"
    clang=; command -v clang++ >/dev/null && clang=yes
    while IFS= read -r header; do
      if [[ $(dirname "$header") == tomograd ]]; then
        echo "$gxx all $header"; if [[ $clang ]]; then echo "clang++ all $header"; echo "clang++ library $header"; fi
      fi
      echo "$gxx bodies $header"
    done < <(cd "$source/include" && find tomograd -name '*.hpp' | sort) >jobs
    echo "$(wc -l <jobs) compilations"
    xargs -P "$(nproc)" -L 1 bash alone.sh <jobs ;;

  *) echo "unknown case $case_name"; exit 2 ;;
esac
