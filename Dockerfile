# docker build -t tokenbench . && docker run --rm tokenbench           the main job on what ships
# docker run --rm tokenbench make test                                   the tests
FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends make git g++ chromium chromium-driver \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /tokenbench
COPY . .
RUN make .venv/developer
CMD ["make", "run"]
