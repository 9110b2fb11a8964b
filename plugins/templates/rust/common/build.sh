#!/bin/sh
# The target's standard library comes from rustup. Where rustup cannot download (or with
# WASM_STD=debian), Debian's own compiler builds it from source, in about a minute.
set -eu
target=wasm32-unknown-unknown
sysroot=$(rustc --print sysroot)
debian="rustc-web cargo-web rust-web-src"

have_std() { [ -d "$sysroot/lib/rustlib/$target/lib" ]; }
have_debian() { dpkg -s $debian >/dev/null 2>&1; }

if [ "${WASM_STD:-rustup}" = rustup ] && { have_std || rustup target add "$target"; }; then
    cargo build --release --target "$target"
else
    as_root=$([ "$(id -u)" = 0 ] || echo sudo)
    if ! have_debian && ! { $as_root apt-get update -q &&
        $as_root apt-get install -y --no-install-recommends $debian; }; then
        echo "build.sh: no standard library for $target: run 'rustup target add $target'," \
            "or install these Debian packages: $debian" >&2
        exit 1
    fi
    host=$(rustc -vV | sed -n 's/^host: //p')
    RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc \
        CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER="$sysroot/lib/rustlib/$host/bin/rust-lld" \
        /usr/bin/cargo build --release -Zbuild-std=std,panic_abort --target "$target"
fi

# Renamed into place: a gateway that watches this folder never sees half a file.
cp "${CARGO_TARGET_DIR:-target}/$target/release/{{crate}}.wasm" .{{name}}.tmp
mv .{{name}}.tmp {{name}}.wasm
