"""A link between two tun devices that loses and delays packets, like netem, which some kernels lack.

    link.py NAME NAME

Reads commands, one per line: `loss FRACTION` and `delay SECONDS`, each for both directions, print nothing;
`count` prints the numbers of received and of lost packets.
"""

import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
# More than the largest packet.
PACKET_BYTES = 65_536


def tun(name):
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    return device


def main():
    ends = [tun(name) for name in sys.argv[1:3]]
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    chance = random.Random(1)
    loss, delay = 0.0, 0.0
    number, lost = 0, 0
    # A heap of packets by due time, then by arrival.
    queue = []
    print("ready", flush=True)
    while True:
        left = max(0, queue[0][0] - time.monotonic()) if queue else None
        readable, _, _ = select.select([*ends, sys.stdin], [], [], left)
        for source in readable:
            if source is sys.stdin:
                line = sys.stdin.readline()
                if not line:
                    return
                command, *value = line.split()
                if command == "loss":
                    loss = float(value[0])
                elif command == "delay":
                    delay = float(value[0])
                else:
                    print(number, lost, flush=True)
                continue
            packet = os.read(source, PACKET_BYTES)
            number += 1
            if chance.random() < loss:
                lost += 1
            else:
                heapq.heappush(queue, (time.monotonic() + delay, number, other[source], packet))
        while queue and queue[0][0] <= time.monotonic():
            _, _, device, packet = heapq.heappop(queue)
            try:
                os.write(device, packet)
            except OSError:
                # That device is not up yet.
                lost += 1


main()
