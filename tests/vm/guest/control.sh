#!/bin/sh
# Runs each line that the test sends over the machine's control port, and answers with what the line
# printed and a last line `@@ CODE`.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
exec <>/dev/coracle.control >&0
echo "@@ 0"
while IFS= read -r line; do
  sh -c "$line" 2>&1 </dev/null
  echo "@@ $?"
done
