#!/bin/sh
# From an empty PostgreSQL to the first federated rounds: four made hospitals, each with an OMOP CDM of its own in a
# database, from which its cohort is drawn and frozen. On a socket in a folder of its own; nothing listens on a port.
#   deploy/examples/omop/run.sh [OUT [SCALE]]      (`make demo-omop`)
set -eu
out=${1:-runs/omop} scale=${2:-0.3}
[ ! -e "$out" ] || { echo "$out is there already: move it away, or give another folder" >&2; exit 2; }
command -v initdb >/dev/null || PATH=$PATH:$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -1)
command -v initdb >/dev/null || { echo "initdb is not there: apt install postgresql" >&2; exit 2; }

# PostgreSQL does not run as root.
db=$(mktemp -d) && chmod 711 "$db"
as() { "$@"; }
owner=$(id -un)
if [ "$(id -u)" = 0 ]; then
    owner=postgres
    as() { runuser -u postgres -- "$@"; }
    chown postgres "$db"
fi
cd_safe() { (cd "$db" && as "$@"); }
stop() { cd_safe pg_ctl -D "$db/data" -m fast stop >/dev/null 2>&1 || true; rm -rf "$db"; }
trap stop EXIT
cd_safe initdb -D "$db/data" -U "$owner" --auth=trust --encoding=UTF8 >"$db.log" 2>&1 || { cat "$db.log"; exit 1; }
rm -f "$db.log"
cd_safe pg_ctl -D "$db/data" -o "-k $db -c listen_addresses='' -c fsync=off" -l "$db/data/log" -w start >/dev/null
echo "PostgreSQL runs in $db"

ecgfed simulate make demo --scale "$scale" --out "$out/hospitals" >/dev/null
for site in north coast valley island; do
    cd_safe createdb -h "$db" -U "$owner" "$site"
    url="postgresql:///$site?host=$db&user=$owner"
    ecgfed simulate omop "$out/hospitals/sites/$site/site.yaml" --database "$url" --schema cdm
    ecgfed site init --folder "$out/hospitals/sites/$site/records" --database "$url" --set schema=cdm \
        --site "$site" --out "$out/$site/site.yaml" >/dev/null
    # The one study of this simulation; on a network `ecgfed site approve` counts.
    sed -i 's|^studies: \[\]|studies: [../study.yaml]|' "$out/$site/site.yaml"
done
ecgfed study init risk --out "$out/study.yaml" --site north --site coast --site valley --site island >/dev/null
sed -i 's/rounds: 20/rounds: 3/' "$out/study.yaml"
for site in north coast valley island; do
    ecgfed site cohort "$out/$site/site.yaml" | head -1
    ecgfed site check "$out/$site/site.yaml" | tail -1
done
ecgfed simulate run "$out/study.yaml" "$out"/*/site.yaml --out "$out/run"
