#!/bin/sh
# sh whole_outputs.sh COMPILER ARGUMENT...: what the compiler writes ("-o FILE") appears whole or not at all.
#
# torch keeps what it compiled, on this machine, for whoever compiles the same. A linker that is killed leaves the
# beginning of a file there, which nobody could load and nobody would write again.

compiler=$1
shift
output=
previous=
for argument do
    shift
    if [ "$previous" = -o ]; then
        output=$argument
        argument=$output.$$.part
    fi
    previous=$argument
    set -- "$@" "$argument"
done
[ -n "$output" ] || exec "$compiler" "$@"
if "$compiler" "$@"; then
    exec mv -f "$output.$$.part" "$output"
else
    status=$?
    rm -f "$output.$$.part"
    exit "$status"
fi
