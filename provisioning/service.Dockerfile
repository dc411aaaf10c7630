# The services of ours in docker-compose.yml: worker, gateway, fleet's controller. The image of rented workers is another,
# worker.Dockerfile. EXTRAS: what of pyproject.toml's extras the service needs; the worker has none, and no key of a
# market's client either.
ARG PYTHON=python:3.12.12-slim-bookworm

FROM ${PYTHON} AS build
WORKDIR /source
RUN python -m venv /opt/whisperfleet
# by themselves, so that a changed line of ours does not fetch them again
COPY pyproject.toml README.md constraints.txt ./
ARG EXTRAS=""
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
wanted = [name.strip() for name in '${EXTRAS}'.split(',') if name.strip()]; \
print(*p['dependencies'], *(line for name in wanted for line in p['optional-dependencies'][name]), sep='\n')" > requirements.txt \
    && /opt/whisperfleet/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt -r requirements.txt
COPY workers workers
COPY workflows workflows
COPY provisioning provisioning
COPY benchmarks benchmarks
RUN /opt/whisperfleet/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps .

FROM ${PYTHON}
# the data folder belongs to the service's user, and a new volume takes that over
RUN groupadd --gid 10001 whisperfleet \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/whisperfleet --shell /usr/sbin/nologin whisperfleet \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/whisperfleet
COPY --from=build /opt/whisperfleet /opt/whisperfleet
ENV PATH=/opt/whisperfleet/bin:$PATH \
    HOME=/var/lib/whisperfleet \
    WHISPERFLEET_HOME=/var/lib/whisperfleet \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/whisperfleet
ENTRYPOINT ["whisperfleet"]
