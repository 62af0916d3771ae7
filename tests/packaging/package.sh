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
  mkdir -p "$way"; cp "$here/consumer.cmake" "$way/CMakeLists.txt"; cp "$here/app.cpp" "$way/"
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
    nm -C app | awk '$2 ~ /[WVu]/ && $3 ~ /^std::|^(bool|void|int|float|double|unsigned|long|char|auto) std::|^operator/ {print $1}' >weak
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

  # Headers alone in two units, one of them for a newer machine. Inline functions of the two must not be shared: the linker would
  # keep one copy of each, possibly the one this machine cannot run.
  two_units)
    grep -q ' avx2 ' /proc/cpuinfo || skip "no AVX2 here"
    timed "$gxx" -std=c++20 -O1 -c -DTWO_UNITS -I "$source/include" "$here/app.cpp" -o app.o &
    timed "$gxx" -std=c++20 -O1 -c -march=x86-64-v3 -I "$source/include" "$here/second.cpp" -o newer.o
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

  # Every public header compiles first and alone, without a warning: header-only under g++, compiled mode under clang++; the doors
  # (tomograd.hpp, infer.hpp …) in both modes under both.
  headers)
    compilers=("$gxx"); command -v clang++ >/dev/null && compilers+=(clang++)
    cd "$source/include"
    : >"$work/jobs"
    while IFS= read -r header; do
      door=; [[ $(dirname "$header") == tomograd ]] && door=yes
      for cxx in "${compilers[@]}"; do for mode in "" -DTOMOGRAD_COMPILED=1; do
        if [[ $door || ( $cxx == clang++ && $mode ) || ( $cxx != clang++ && ! $mode ) ]]; then echo "$cxx $mode $header" >>"$work/jobs"; fi
      done; done
    done < <(find tomograd -name '*.hpp' | sort)
    echo "$(wc -l <"$work/jobs") compilations, ${compilers[*]}"
    export strict_flags="${strict[*]}"
    xargs -P "$(nproc)" -I{} bash -c 'set -- {}; cxx=$1; shift; header=${!#}
      printf "#include <%s>\n" "$header" | $cxx -std=c++20 $strict_flags -fsyntax-only -I . "${@:1:$#-1}" -x c++ - || { echo "FAILED: $cxx $*"; exit 1; }' <"$work/jobs" ;;

  *) echo "unknown case $case_name"; exit 2 ;;
esac
