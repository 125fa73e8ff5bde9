#!/usr/bin/env bash
# Takes a worker's pod out of its Ray cluster: Serve brings its replicas up elsewhere; those here finish their answers.
# Usage: leave-cluster SECONDS, that it may take at most
set -uo pipefail
limit=$1
serves='^ray::(ServeReplica|ProxyActor|HAProxyManager)'

node=$(pgrep -af raylet | sed -nE 's/.*--node[_-]id=([0-9a-f]+).*/\1/p' | head -n 1)
timeout 30 ray drain-node --address "$RAY_ADDRESS" --node-id "$node" --reason DRAIN_NODE_REASON_PREEMPTION \
  --reason-message 'its pod ends' --deadline-remaining-seconds "$limit" ||
  echo 'The head was not told. What runs here may run on until the time is over.' >&2
while ((SECONDS < limit)) && pgrep -f "$serves" > /dev/null; do
  sleep 1
done
ray stop
