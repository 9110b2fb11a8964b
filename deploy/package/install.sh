#!/bin/sh
# Copies what runs into a prefix:  install.sh target/release PREFIX [--whole]
#   bin/stent, lib/stent (llama.cpp, one file of CPU code for each family of processors),
#   share/stent/models/demo, man pages, shell completions, systemd units
# --whole: also what a machine may lack (libgomp, libstdc++) and the documents: the tarball.
set -eu

built=$1
prefix=$2
whole=${3:-}

install -d "$prefix/bin" "$prefix/lib/stent" "$prefix/lib/systemd/system" "$prefix/share/stent/models/demo"
# The running program may be the one that is replaced: a new file takes its name.
install -m 755 "$built/stent" "$prefix/bin/.stent.new"
# The symbols are for those who have the source, and two thirds of the size.
if command -v strip >/dev/null; then strip "$prefix/bin/.stent.new"; fi
mv "$prefix/bin/.stent.new" "$prefix/bin/stent"
install -m 644 "$built"/lib/*.so* "$prefix/lib/stent/"
install -m 644 models/demo/stent-demo.gguf models/demo/README.md "$prefix/share/stent/models/demo/"
# Where it will be found, which DESTDIR is no part of.
place=${STENT_PREFIX:-$prefix}
for file in lib/systemd/system/stent.service lib/systemd/system/stent.socket share/stent/stent.toml; do
    sed "s|/usr/local|$place|g" "deploy/systemd/${file##*/}" >"$prefix/$file"
    chmod 644 "$prefix/$file"
done

"$built/stent" man --dir "$prefix/share/man/man1"
for shell in bash:bash-completion/completions/stent zsh:zsh/site-functions/_stent fish:fish/vendor_completions.d/stent.fish; do
    file=$prefix/share/${shell#*:}
    install -d "$(dirname "$file")"
    "$built/stent" completions "${shell%%:*}" >"$file"
done

[ "$whole" = --whole ] || exit 0
for name in libgomp.so.1 libstdc++.so.6 libgcc_s.so.1; do
    file=$(ldd "$built/stent" | sed -n "s|.*$name => \([^ ]*\).*|\1|p")
    install -m 644 "$file" "$prefix/lib/stent/"
done
# The default path of the model, for `bin/stent serve` from within the folder.
ln -sfn share/stent/models "$prefix/models"
install -m 644 LICENSE README.md CHANGELOG.md "$prefix/"
cp -R docs "$prefix/docs"
