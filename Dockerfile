# poe-relay as docker-compose.yml runs it. It keeps everything in /data and writes nowhere else.
# Python 3.11 is the one that requirements.txt is resolved for and tested with.
FROM python:3.11-slim-trixie

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    POE_RELAY_DATA_DIR=/data

WORKDIR /app

# A fixed id: the files in the volume keep their owner from one image to the next.
RUN groupadd --gid 10001 relay \
    && useradd --uid 10001 --gid relay --no-create-home --home-dir /data --shell /usr/sbin/nologin relay \
    && install --directory --owner relay --group relay --mode 0700 /data

# Before the code, which changes more often. Where the package index is slow, name a mirror:
# --build-arg PIP_INDEX_URL=...; what it serves must still have the hashes of requirements.txt.
ARG PIP_INDEX_URL
COPY requirements.txt ./
RUN pip install --no-cache-dir --disable-pip-version-check --root-user-action ignore --require-hashes -r requirements.txt

COPY manage.py config.example.toml ./
COPY proxy_site proxy_site
COPY accounts accounts
COPY relay relay
COPY templates templates
COPY locale locale
# Readable for everybody, whatever the umask of whoever cloned the repository.
RUN chmod -R a+rX . && python -m compileall -q .

USER 10001:10001
VOLUME /data
EXPOSE 3700
STOPSIGNAL SIGTERM

# http.client, because urllib would send this through a proxy named in the environment.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('POE_RELAY_SERVER__PORT', 3700)), timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]

# exec: the server itself gets the signal to stop, and lets running answers finish.
CMD ["sh", "-c", "python manage.py setup && exec python manage.py serve --host 0.0.0.0"]
