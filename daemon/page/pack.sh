#!/bin/sh
# usage: pack.sh SOURCE DESTINATION
#
# Copies the page's files, with ?v=VERSION behind each name by which they ask for each other, and
# each of them compressed beside it.  VERSION is a hash of all of them: whoever has one of a version
# has or asks for the others of the same one.  Nothing else is changed; opened as they are in SOURCE
# (behind a server that serves them) they work the same.
set -eu
export LC_ALL=C
from=$1 to=$2
rm -rf "$to.new"
mkdir -p "$to.new"
for file in "$0" "$from"/*.html "$from"/*.css "$from"/*.js "$from"/*.ts "$from"/*.svg; do
	sha256sum <"$file"
done | sha256sum | cut -c 1-20 | tr -d '\n' >"$to.new/version"
v=$(cat "$to.new/version")
for file in "$from"/*.html "$from"/*.css "$from"/*.js "$from"/*.ts "$from"/*.svg; do
	name=$(basename "$file")
	case $name in
	*.html) sed "s#\(=\"page/[a-z.]*\)\"#\1?v=$v\"#g" "$file" >"$to.new/$name" ;;
	*.js) sed "s#\( from '\./[a-z]*\.js\)'#\1?v=$v'#" "$file" >"$to.new/$name" ;;
	*) cp "$file" "$to.new/$name" ;;
	esac
	gzip -9nc "$to.new/$name" >"$to.new/$name.gz"
done
rm -rf "$to"
mv "$to.new" "$to"
