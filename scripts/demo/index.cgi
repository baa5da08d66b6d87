#!/bin/sh
# The greeting is read for every answer: a changed ConfigMap shows without a restart.
printf 'Content-Type: text/plain\r\n\r\n%s from %s (%s)\n' "$(cat /etc/web/greeting)" "$POD_NAME" "$VERSION"
