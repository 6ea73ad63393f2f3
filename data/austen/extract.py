#!/usr/bin/env python3
"""How the novels were taken out of Debian's r-cran-janeaustenr 1.0.0-1.

usage: apt-get download r-cran-janeaustenr && dpkg-deb -x r-cran-janeaustenr_*.deb PACKAGE
       extract.py PACKAGE FOLDER && xz -9e FOLDER/*.txt
"""
import pathlib
import struct
import sys
import zlib


def records(rdb):
    """Each record of a .rdb: a big-endian inflated length, then a zlib stream."""
    at = 0
    while at < len(rdb):
        stream = zlib.decompressobj()
        record = stream.decompress(rdb[at + 4:])
        assert len(record) == struct.unpack('>I', rdb[at:at + 4])[0]
        yield record
        at = len(rdb) - len(stream.unused_data)


def lines(record):
    """The strings of the record's character vector (R's XDR serialisation)."""
    at = record.index(b'\x00\x00\x00\x10')
    count = struct.unpack('>I', record[at + 4:at + 8])[0]
    at += 8
    for _ in range(count):
        flags, length = struct.unpack('>Ii', record[at:at + 8])
        assert flags & 0xff == 9
        at += 8 + length
        yield record[at - length:at].decode('utf-8').rstrip()


def main(package, folder):
    rdb = pathlib.Path(package, 'usr/lib/R/site-library/janeaustenr/data/Rdata.rdb').read_bytes()
    for record in records(rdb):
        text = '\n'.join(lines(record)) + '\n'
        name = text.split('\n', 1)[0].lower().replace(' ', '_')
        pathlib.Path(folder, name + '.txt').write_text(text, encoding='utf-8')


main(*sys.argv[1:])
