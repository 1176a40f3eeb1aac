#!/usr/bin/env bash
# Report the sizes of a build, and fail if one exceeds its limit.
# Usage: cpp/tests/check_size.sh FOLDER TOOLS PROGRAM_LIMIT LIBRARY_LIMIT
#   FOLDER         build folder
#   TOOLS          prefix of the commands strip and size for the target
#   PROGRAM_LIMIT  bytes of code and constants of the program `size` (cpp/tests/size.cpp), stripped
#   LIBRARY_LIMIT  bytes of code and constants of libl2m.a
set -euo pipefail
folder=$1
tools=$2

check() {  # NAME BYTES LIMIT
    echo "$1: $2 bytes, at most $3"
    test "$2" -le "$3" || { echo "check_size: $1 must have at most $3 bytes (got $2)" >&2; exit 1; }
}

"${tools}strip" -o "$folder/size.stripped" "$folder/size"
check "program" "$("${tools}size" "$folder/size.stripped" | awk 'NR == 2 { print $1 }')" "$3"
check "libl2m.a" "$("${tools}size" --totals "$folder/libl2m.a" | awk 'END { print $1 }')" "$4"
