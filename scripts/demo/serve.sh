#!/bin/sh
# The demonstration's web server: one page that says which pod answered.
mkdir -p /www
echo "pod ${POD:-?} on node ${NODE:-?}" >/www/index.html
httpd -f -p 8080 -h /www &
trap 'kill $!; exit 0' TERM INT
wait
