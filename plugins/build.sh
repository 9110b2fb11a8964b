#!/bin/sh
# Builds every policy as a core WebAssembly module, dist/NAME.wasm.
#
# The target's standard library comes from rustup. Where rustup cannot download (or with
# WASM_STD=debian), Debian's own compiler builds it from source, in about a minute.
set -eu
cd "$(dirname "$0")"
target=wasm32-unknown-unknown
sysroot=$(rustc --print sysroot)
built=${CARGO_TARGET_DIR:-target}/$target/release
debian="rustc-web cargo-web rust-web-src"

have_std() { [ -d "$sysroot/lib/rustlib/$target/lib" ]; }
have_debian() { dpkg -s $debian >/dev/null 2>&1; }

if [ "${WASM_STD:-rustup}" = rustup ] && { have_std || rustup target add "$target"; }; then
    cargo build --locked --release --target "$target"
else
    if ! have_debian && ! ../deploy/setup/apt.sh $debian; then
        echo "build.sh: no standard library for $target: run 'rustup target add $target'" \
            "or install those packages" >&2
        exit 1
    fi
    host=$(rustc -vV | sed -n 's/^host: //p')
    RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc \
        CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER="$sysroot/lib/rustlib/$host/bin/rust-lld" \
        /usr/bin/cargo build --locked --release -Zbuild-std=std,panic_abort --target "$target"
fi

mkdir -p dist
for policy in guard-limits trim-exchanges prompt-mistral cache-exact filter-redact; do
    module=$built/$(echo "$policy" | tr - _).wasm
    # An unchanged file keeps its time: the host is not built again.
    ! cmp -s "$module" "dist/$policy.wasm" || continue
    # Renamed into place: a gateway that watches this folder never sees half a file.
    cp "$module" "dist/.$policy.tmp"
    mv "dist/.$policy.tmp" "dist/$policy.wasm"
done
