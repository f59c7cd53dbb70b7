# Two servers on one machine, each with a network of its own (10.77.0.1 and 10.77.0.2), which a cable joins:
#   unshare -rn bash two_servers.sh FOLDER
# Runs FOLDER/node0.sh on one and FOLDER/node1.sh on the other; each leaves nodeN.log and nodeN.status (its exit status).
# No packet leaves the machine, and nothing is left when it ends.
set -e
folder=$1
ip link set lo up
rm -f "$folder/other" "$folder/over"
mkfifo "$folder/other" "$folder/over"
unshare -n sh -c 'echo is there >"$1/other"; read -r _ <"$1/over"' - "$folder" & # keeps the second network
other=$!
read -r _ <"$folder/other"
ip link add one type veth peer name two
ip link set two netns $other
ip addr add 10.77.0.1/24 dev one
ip link set one up
nsenter -t $other -n sh -c 'ip link set lo up; ip addr add 10.77.0.2/24 dev two; ip link set two up'

run() {
    local node=$1 status=0
    shift
    "$@" bash "$folder/node$node.sh" >"$folder/node$node.log" 2>&1 </dev/null || status=$?
    echo $status >"$folder/node$node.status"
}
run 0 &
first=$!
run 1 nsenter -t $other -n &
second=$!
wait $first
wait $second
kill $other
