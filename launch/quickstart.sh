#!/usr/bin/env bash
# From a bare machine to a trained model and a report on it: installs, builds, prepares text, trains a small Engram-MoE
# on two ranks, and shows what came out. Typed again, it repeats nothing.
#
#   launch/quickstart.sh                  on six novels (data/austen, public domain), one of them held out
#   launch/quickstart.sh my_book.txt      on your own text: a file,
#   launch/quickstart.sh my_texts/        or a folder of *.txt, *.md, *.jsonl; 200 kB or more
#   launch/quickstart.sh train.steps=100  key=value: another setting, as `mneme train` takes it
#
# RANKS=1 trains on one rank (default 2; on a GPU 1).
set -euo pipefail
from=$PWD
here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here"
. launch/env.sh
. launch/cuda.sh

usage() { sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' launch/quickstart.sh; }
given=''
settings=()
for word in "$@"; do
  case $word in
    -h | --help) usage; exit ;;
    -*) usage >&2; exit 2 ;;
    *=*) settings+=("$word") ;;
    *) [ -z "$given" ] || { usage >&2; exit 2; }; given=$word ;;
  esac
done
begin=$SECONDS
step() { printf '\n[%d/5] %s\n' "$1" "$2"; }
fail() { printf 'quickstart: %s\n' "$*" >&2; exit "${code:-1}"; }

# What to train on, and a name for the run that belongs to it.
name=quickstart
prompts=("She had been " "The young man " "Captain Wentworth ")
if [ -n "$given" ]; then
  text=$(cd "$from" && realpath -e -- "$given" 2>/dev/null) || { code=2; fail "no such file or folder: $given"; }
  prompts=("The " "It is " "And ")
  name=quickstart-$(basename "$text" | tr -c 'A-Za-z0-9\n' '_' | cut -c1-32)-$(cksum <<<"$text" | cut -d' ' -f1)
  size=$(find "$text" -type f \( -name '*.txt' -o -name '*.text' -o -name '*.md' -o -name '*.jsonl' -o -name '*.ndjson' -o \
    -path "$text" \) -printf '%s\n' | awk '{s += $1} END {print int(s / 1000)}')
  [ "$size" -ge 200 ] || { code=2; fail "$given holds $size kB of text (*.txt, *.md, *.jsonl); it takes 200 kB to learn anything"; }
fi
run=runs/$name
corpora=corpora/$name

step 1 "install what is missing (a minute, the first time)"
launch/install.sh
step 2 "build the program (up to 5 minutes, the first time)"
launch/build.sh
mneme=$here/build/mneme

step 3 "prepare the text (seconds)"
if [ -n "$given" ]; then
  # A tenth is held out: of a few documents' blocks, or of many documents.
  "$mneme" prepare --input "$text" --output "$corpora" --document-bytes 20000 --held-out 0.1
else
  work=$corpora.text
  if [ ! -d "$corpora/train" ] || [ ! -d "$corpora/held_out" ]; then
    rm -rf "$work" && mkdir -p "$work/train" "$work/held_out"
    for novel in data/austen/*.txt.xz; do
      part=train
      case $novel in *persuasion*) part=held_out ;; esac
      xz -dc "$novel" >"$work/$part/$(basename "${novel%.xz}")"
    done
    for part in train held_out; do
      "$mneme" prepare --input "$work/$part" --output "$corpora/$part"
    done
    rm -rf "$work"
  fi
fi

ranks=${RANKS:-2}
if gpu_present && gpu_build; then
  ranks=${RANKS:-1}
fi
step 4 "train on $ranks ranks (about 4 minutes on two cores; interrupted, it goes on where it stopped)"
code=0
mpirun -n "$ranks" "$mneme" train configs/runs/quickstart.yaml run.dir="$run" data.train="$corpora/train" \
  "evaluate.sets=[{name: held_out, data: '$corpora/held_out', sequences: 256}]" "${settings[@]}" || code=$?
[ $code = 0 ] || fail "training ended with exit code $code; the same command goes on where it stopped"

step 5 "what came out (about a minute)"
section() { printf '\n-- %s\n\n' "$*"; }
report() {
  section "The loss while it trained (also $run/loss.svg)"
  "$mneme" report "$run" --svg "$run/loss.svg"
  section "Held-out text: the model, the model with its memory off, and what counting alone reaches"
  mpirun -n "$ranks" "$mneme" evaluate "$run" --data "$corpora/held_out" --memory-off --ngrams 5
  section "Where the memory is used most"
  "$mneme" analyze "$run" --data "$corpora/held_out" --count 10 --sequences 256 --shown 240
  section "It writes (shaded by how far the gates of its memory open)"
  for prompt in "${prompts[@]}"; do
    "$mneme" generate "$run" --prompt "$prompt" --gates --tokens 160 --temperature 0.7
    echo
  done
}
# With colours for a terminal, with plain marks for everything else; each made once.
shown=$run/report.txt
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
  shown=$run/report.ansi
  export CLICOLOR_FORCE=1
fi
if [ ! -s "$shown" ] || [ "$run/result.json" -nt "$shown" ]; then
  report >"$shown.part" 2>"$run/report.log" || { cat "$run/report.log" >&2; fail "the report failed; $run/report.log"; }
  mv "$shown.part" "$shown"
fi
cat "$shown"
cat <<EOF_NEXT
-- What to try next

  build/mneme generate $run --prompt "${prompts[2]}" --tokens 400
  build/mneme generate $run --prompt "${prompts[2]}" --tokens 400 --memory-off
  build/mneme analyze $run --order 4 --count 30
  mpirun -n $ranks build/mneme train configs/runs/quickstart.yaml run.dir=runs/no_memory model.engram.blocks=[] \\
    data.train=$corpora/train "evaluate.sets=[{name: held_out, data: $corpora/held_out, sequences: 256}]"
  launch/quickstart.sh FILE|FOLDER      the same on your own text
  docs/architecture.md                  how it works; docs/configuration.md: every key

quickstart: $(((SECONDS - begin) / 60)) min $(((SECONDS - begin) % 60)) s in all
EOF_NEXT
