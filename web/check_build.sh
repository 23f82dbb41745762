#!/bin/sh
# Proves that the built files in riffusion_rt/server/static are made from the source beside this script.
set -eu
cd "$(dirname "$0")"
npm ci --no-fund --no-audit
npm test
npm run build
static=../riffusion_rt/server/static
if [ -n "$(git status --porcelain -- "$static")" ]; then
  git --no-pager diff --stat -- "$static"
  echo "The built files do not match web/: run npm run build there and commit $static" >&2
  exit 1
fi
echo "The built files match the source."
