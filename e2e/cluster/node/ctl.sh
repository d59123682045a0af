#!/usr/bin/env bash
# Starts or ends a component of a node, or any long-running command inside it:
#   ctl.sh start NAME [COMMAND...] | ctl.sh stop NAME [SIGNAL]
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/in.sh" bash -c '. /var/lib/conf/components.sh; "$@"' ctl "$@"
