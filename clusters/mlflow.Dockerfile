# MLflow's server with the drivers of PostgreSQL and S3, for compose.yaml.
FROM python:3.12-slim
RUN pip install --no-cache-dir mlflow==3.17.2 psycopg2-binary==2.9.13 boto3==1.43.117 \
    && useradd --uid 1000 --create-home mlflow
USER 1000
WORKDIR /home/mlflow
ENV MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
